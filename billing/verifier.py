"""Verify a month of usage without its operator: one file, the standard library, nothing else.

    python verifier.py BUNDLE.json [--kept EARLIER.json] [--public-key HEX]

It recomputes every leaf from its record, the tenant's tree from the leaves, the way from there to
the signed head, the signature (RFC 8032) and the totals. With a head or a bundle that was kept
from before it also shows that nothing was taken out or changed since. It shares no code with the
program that made the bundle, and says what it could not check. Entries are read one by one, so
that a long month needs no more memory than a short one. Exit status: 0 if all holds, 1 if
something does not, 2 if a file cannot be read.
"""

# ruff: noqa: T201  # a program of its own, which prints
from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator
from decimal import Context, Decimal, Inexact
from typing import Any

FORMAT = "steelyard-bundle v1"
METER_PAIRS = 19
"""Place of the (meter, quantity) pairs in a record of version `usage v1`."""
_SUMS = Context(prec=200, traps=[Inexact])
"""Adds quantities as they are: the usual 28 digits would round a total of 10^18 with decimals."""

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_ROOT_OF_MINUS_ONE = pow(2, (_P - 1) // 4, _P)
_BASE_Y = 4 * pow(5, -1, _P) % _P


class Document:
    """A bundle or a head that is in memory already."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.opening = content
        self.closing = content

    def entries(self) -> Iterable[dict[str, Any]]:
        """The sealed events, in the order of their leaves."""
        entries: list[dict[str, Any]] = self.opening.get("entries", [])
        return entries


class BundleFile(Document):
    """A bundle on disk with a line per entry: only its first and last lines stay in memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._open() as file:
            first = file.readline()
            self._by_line = first.rstrip().endswith('"entries": [')
            whole = first.rstrip() + "]}" if self._by_line else first + file.read()
        super().__init__(json.loads(whole))
        if self._by_line:
            for _ in self._lines():
                pass

    def entries(self) -> Iterable[dict[str, Any]]:
        """The sealed events, in the order of their leaves."""
        return map(json.loads, self._lines()) if self._by_line else super().entries()

    def _lines(self) -> Iterator[str]:
        with self._open() as file:
            file.readline()
            for line in file:
                if line.startswith("]"):
                    self.closing = json.loads("{" + line.removeprefix("],") + file.read())
                    return
                yield line.rstrip(",\n")
        raise ValueError("the file ends within its entries")

    def _open(self) -> Any:
        return open(self._path, encoding="utf-8")  # noqa: PTH123  # a script


class Verified:
    """What a bundle says and what is wrong with it, one sentence each."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.totals: dict[str, Decimal] = {}
        self.entries = 0


def verify_bundle(
    bundle: dict[str, Any],
    *,
    kept: dict[str, Any] | None = None,
    public_key: str | None = None,
) -> list[str]:
    """What is wrong with a bundle, as `verify_document` finds it."""
    earlier = None if kept is None else Document(kept)
    return verify_document(Document(bundle), kept=earlier, public_key=public_key).problems


def verify_document(
    bundle: Document, *, kept: Document | None = None, public_key: str | None = None
) -> Verified:
    """Verify a bundle in one pass over its entries.

    Args:
        kept: a head or a bundle of the same tenant that was kept from before.
        public_key: the operator's key as the tenant knows it, hexadecimal; without it the key in
            the bundle is believed, or the one in `kept`.
    """
    result = Verified()
    found, opening = result.problems, bundle.opening
    if opening.get("format") != FORMAT:
        found.append("the file is not a bundle of a version that this verifier knows")
        return result
    head = bundle.closing["head"]
    kept_head = None if kept is None else head_of(kept)
    if public_key is None and kept_head is not None:
        public_key = kept_head["signed"]["public_key"]
    found += verify_head(head, public_key=public_key)
    if json.loads(head["record"])[1] != opening["tree"]:
        found.append("the head is that of another tenant")
    tree = _Tree(opening["first"], opening["left"])
    kept_size = None if kept_head is None else kept_head["size"]
    kept_root = tree.root() if tree.size == kept_size else None
    for entry in bundle.entries():
        tree.add(_leaf(entry, opening, tree.size, result))
        if tree.size == kept_size:
            kept_root = tree.root()
    result.totals = {meter: quantity for meter, quantity in result.totals.items() if quantity}
    if (tree.size, tree.root().hex()) != (head["size"], head["root"]):
        found.append(
            "the entries do not lead to the tenant's head: one was added, changed or left out"
        )
    found += _verify_totals(bundle, result)
    if kept is not None:
        found += _verify_kept(bundle, kept, kept_root)
        if found:
            found += _missing_since(bundle, kept)
    return result


def verify_head(head: dict[str, Any], *, public_key: str | None = None) -> list[str]:
    """What is wrong with a tenant's head: its record, its place under the signed head, the
    signature."""
    found: list[str] = []
    signed = head["signed"]
    lines = signed["text"].split("\n")
    record = json.loads(head["record"])
    if record[0] != "head v1" or record[2:4] != [head["size"], head["root"]]:
        found.append("the tenant's head is not the one that its record states")
    if lines[0] != "steelyard-head v1" or lines[1:3] != [str(signed["size"]), signed["root"]]:
        found.append("the signed head is not the one that its text states")
    leaf = _hash(b"\x00" + head["record"].encode())
    proof = [bytes.fromhex(each) for each in head["proof"]]
    if not _included(leaf, head["operator_leaf"], signed["size"], proof, signed["root"]):
        found.append("the tenant's head is not under the signed head")
    if public_key is not None and public_key.lower() != signed["public_key"]:
        found.append("the head is signed by another key than the one that you know")
    key, signature = bytes.fromhex(signed["public_key"]), bytes.fromhex(signed["signature"])
    if not ed25519_verifies(key, signed["text"].encode(), signature):
        found.append("the signature of the head is not that of the key")
    return found


def _leaf(entry: dict[str, Any], opening: dict[str, Any], place: int, result: Verified) -> bytes:
    """The leaf of an entry, whose usage is added to the totals of the month."""
    result.entries += 1
    if "record" not in entry:
        result.problems.append(
            f"leaf {place}: the event that was sealed there is missing or changed"
        )
        return bytes.fromhex(entry["leaf"])
    record = json.loads(entry["record"])
    owner = int(opening["tree"].partition(":")[2])
    if record[0] != "usage v1" or record[2] != owner:
        result.problems.append(f"leaf {place}: the record is not one of this tenant's usage")
    elif opening["start_us"] <= record[4] < opening["end_us"]:
        for meter, quantity in record[METER_PAIRS]:
            result.totals[meter] = _SUMS.add(result.totals.get(meter, 0), Decimal(quantity))
    return _hash(b"\x00" + entry["record"].encode())


def _verify_totals(bundle: Document, result: Verified) -> list[str]:
    texts, summed = bundle.closing["totals"].items(), result.totals
    stated = {meter: Decimal(text) for meter, text in texts if Decimal(text)}
    return [
        f"meter {each}: {stated.get(each) or 0:f} is stated, {summed.get(each) or 0:f} was sealed"
        for each in sorted(stated.keys() | summed.keys())
        if stated.get(each) != summed.get(each)
    ]


def _verify_kept(bundle: Document, kept: Document, root: bytes | None) -> list[str]:
    """What contradicts the kept head; `root` is that of the bundle's first events of its size."""
    head, newest = head_of(kept), bundle.closing["head"]
    found = [f"kept file: {problem}" for problem in verify_head(head)]
    if json.loads(head["record"])[1] != bundle.opening["tree"]:
        return [*found, "the kept head is that of another tenant"]
    size, consistency = head["size"], bundle.closing.get("consistency")
    rewritten = f"the first {size} events are not those of the kept head: history was rewritten"
    if size > newest["size"]:
        found.append(
            f"the bundle ends before the kept head of {size} events: events were taken out"
        )
    elif root is not None:
        if root.hex() != head["root"]:
            found.append(rewritten)
    elif consistency is not None and consistency["size"] == size:
        proof = [bytes.fromhex(each) for each in consistency["proof"]]
        if not _consistent(size, newest["size"], head["root"], newest["root"], proof):
            found.append(rewritten)
    else:
        found.append(
            f"the bundle does not reach back to the kept head: ask for one with size {size}"
        )
    return found


def _missing_since(bundle: Document, kept: Document) -> list[str]:
    """Name the events that a kept bundle has and this one has not."""
    if kept.opening.get("tree") != bundle.opening["tree"]:
        return []
    present = {_hash(entry["record"].encode()) for entry in bundle.entries() if "record" in entry}
    first = bundle.opening["first"]
    reach = range(first, first + sum(1 for _ in bundle.entries()))
    found: list[str] = []
    for place, entry in enumerate(kept.entries(), start=kept.opening.get("first", 0)):
        if place in reach and "record" in entry and _hash(entry["record"].encode()) not in present:
            name = json.loads(entry["record"])[1]
            found.append(f"event {name}, leaf {place}, is missing or changed since the kept bundle")
    return found


def head_of(document: Document) -> dict[str, Any]:
    """The newest head of a bundle, or the head itself."""
    head: dict[str, Any] = document.closing.get("head", document.closing)
    return head


class _Tree:
    """A growing RFC 6962 tree, of which only the right edge is kept."""

    def __init__(self, size: int, left: list[str]) -> None:
        self.size = size
        self.peaks = [bytes.fromhex(each) for each in left]

    def add(self, leaf: bytes) -> None:
        place = self.size
        while place & 1:
            leaf = _hash(b"\x01" + self.peaks.pop() + leaf)
            place >>= 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        if not self.peaks:
            return _hash(b"")
        result = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            result = _hash(b"\x01" + peak + result)
        return result


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _included(leaf: bytes, place: int, size: int, proof: list[bytes], root: str) -> bool:
    """RFC 9162, section 2.1.3.2."""
    if not 0 <= place < size:
        return False
    last, result = size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            result = _hash(b"\x01" + sibling + result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = _hash(b"\x01" + result + sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and result.hex() == root


def _consistent(first: int, second: int, old: str, new: str, proof: list[bytes]) -> bool:
    """RFC 9162, section 2.1.4.2."""
    if first == 0:
        return not proof and old == _hash(b"").hex()
    if first == second:
        return not proof and old == new
    path = [bytes.fromhex(old), *proof] if first & (first - 1) == 0 else proof
    if not path:
        return False
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            older, newer = _hash(b"\x01" + sibling + older), _hash(b"\x01" + sibling + newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = _hash(b"\x01" + newer + sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and (older.hex(), newer.hex()) == (old, new)


def ed25519_verifies(public_key: bytes, text: bytes, signature: bytes) -> bool:
    """RFC 8032, section 5.1.7."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key, commitment = _point(public_key), _point(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if key is None or commitment is None or scalar >= _L:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + text).digest()
    challenge = int.from_bytes(digest, "little") % _L
    base_x = _x_of(_BASE_Y, 0)
    assert base_x is not None
    left = _times(scalar, (base_x, _BASE_Y, 1, base_x * _BASE_Y % _P))
    right = _add(commitment, _times(challenge, key))
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (
        left[1] * right[2] - right[1] * left[2]
    ) % _P == 0


_Point = tuple[int, int, int, int]


def _x_of(y: int, sign: int) -> int | None:
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if square == 0:
        return None if sign else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _ROOT_OF_MINUS_ONE % _P
    if (x * x - square) % _P:
        return None
    return _P - x if x & 1 != sign else x


def _point(encoded: bytes) -> _Point | None:
    value = int.from_bytes(encoded, "little")
    y, sign = value & ((1 << 255) - 1), value >> 255
    x = _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times(scalar: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def main() -> int:
    """Verify the files that the command line names; the exit status."""
    parser = argparse.ArgumentParser(description="Verify a month of sealed usage, offline.")
    parser.add_argument("bundle")
    parser.add_argument("--kept", help="a head or a bundle that you kept from before")
    parser.add_argument("--public-key", help="the operator's key as you know it, hexadecimal")
    asked = parser.parse_args()
    try:
        kept = None if asked.kept is None else BundleFile(asked.kept)
        result = verify_document(BundleFile(asked.bundle), kept=kept, public_key=asked.public_key)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        reason = error if isinstance(error, OSError) else type(error).__name__
        print(f"not a bundle that can be read: {reason}", file=sys.stderr)
        return 2
    for problem in result.problems:
        print(f"PROBLEM  {problem}")
    if not result.problems:
        print(f"All {result.entries} sealed events hold. Usage of the month:")
        for meter, quantity in sorted(result.totals.items()):
            print(f"  {meter}  {quantity:f}")
        if asked.kept is None and asked.public_key is None:
            print("Not checked: that the key is your operator's, and that nothing is missing since")
            print("an earlier head. Keep this file, and pass it as --kept the next time.")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
