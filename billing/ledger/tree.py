"""Merkle trees as RFC 6962 defines them: hashes, roots, proofs of inclusion and of consistency.

Decides nothing about what a leaf says or where hashes are kept: a tree is read through a function
that returns the hash of a full subtree. Levels count from the leaves (level 0); the node
(level, index) covers the leaves index * 2^level up to (index + 1) * 2^level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()

NodeReader: TypeAlias = Callable[[int, int], bytes]
"""The hash of the full subtree (level, index)."""


def leaf_hash(record: bytes) -> bytes:
    """The leaf of a record."""
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node over its two children."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_of(leaves: Sequence[bytes]) -> NodeReader:
    """A reader of the tree over leaf hashes in memory."""
    levels: list[Sequence[bytes]] = [leaves]

    def read(level: int, index: int) -> bytes:
        while len(levels) <= level:
            levels.append(parents(levels[-1]))
        return levels[level][index]

    return read


def parents(hashes: Sequence[bytes]) -> list[bytes]:
    """One level up: the hashes over each full pair."""
    return [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes) // 2 * 2, 2)]


def full_subtree(hashes: Sequence[bytes]) -> bytes:
    """The root over a number of hashes that is a power of two."""
    assert hashes
    assert len(hashes) & (len(hashes) - 1) == 0
    while len(hashes) > 1:
        hashes = parents(hashes)
    return hashes[0]


def root(node: NodeReader, size: int) -> bytes:
    """The root of the tree's first `size` leaves."""
    return _span(node, 0, size) if size else EMPTY_ROOT


def inclusion_proof(node: NodeReader, index: int, size: int) -> tuple[bytes, ...]:
    """The hashes that lead from leaf `index` to the root over `size` leaves, from below."""
    assert 0 <= index < size
    start, end = 0, size
    proof: list[bytes] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_span(node, middle, end))
            end = middle
        else:
            proof.append(_span(node, start, middle))
            start = middle
    return tuple(reversed(proof))


def consistency_proof(node: NodeReader, first: int, second: int) -> tuple[bytes, ...]:
    """The hashes that show that the tree of `first` leaves begins the tree of `second`."""
    assert 0 <= first <= second
    if first in (0, second):
        return ()
    start, end, whole = 0, second, True
    proof: list[bytes] = []
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_span(node, middle, end))
            end = middle
        else:
            proof.append(_span(node, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_span(node, start, end))
    return tuple(reversed(proof))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes
) -> bool:
    """Whether a proof shows that `leaf` stands at `index` in the tree with root `expected`."""
    if not 0 <= index < size:
        return False
    place, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            result = node_hash(sibling, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and result == expected


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether a proof shows that the tree of `second` leaves only appended to that of `first`."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
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
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            newer = node_hash(newer, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and older == first_root and newer == second_root


@dataclass(slots=True)
class Frontier:
    """The right edge of a growing tree: enough to know its root after every leaf.

    Attributes:
        peaks: the full subtrees that the tree consists of, widest first.
    """

    size: int = 0
    peaks: list[bytes] = field(default_factory=list[bytes])

    def add(self, leaf: bytes) -> None:
        """Append a leaf."""
        place = self.size
        while place & 1:
            leaf = node_hash(self.peaks.pop(), leaf)
            place >>= 1
        self.peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self.peaks:
            return EMPTY_ROOT
        *left, result = self.peaks
        for peak in reversed(left):
            result = node_hash(peak, result)
        return result

    def copy(self) -> Frontier:
        """The same edge, to grow another way."""
        return Frontier(size=self.size, peaks=list(self.peaks))


def peaks(node: NodeReader, size: int) -> list[bytes]:
    """The full subtrees that a tree of `size` leaves consists of, widest first."""
    return [node(level, start >> level) for level, start in _peak_places(0, size)]


def _peak_places(start: int, end: int) -> list[tuple[int, int]]:
    places: list[tuple[int, int]] = []
    while start < end:
        level = (end - start).bit_length() - 1
        places.append((level, start))
        start += 1 << level
    return places


def _span(node: NodeReader, start: int, end: int) -> bytes:
    """The root over leaves start..end, of which every full subtree is one of the whole tree."""
    *left, result = [node(level, at >> level) for level, at in _peak_places(start, end)]
    for peak in reversed(left):
        result = node_hash(peak, result)
    return result


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1
