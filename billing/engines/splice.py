"""Changes to top-level members of a JSON object, byte for byte, without re-serialising the rest.

Decides: where each top-level member of a body begins and ends, and how a member is set or cut
out. Bodies pass through a proxy unchanged but for such splices: re-encoding would change numbers,
key order and escapes, and costs a hundred times as much.

An object with a duplicate key is refused: parsers disagree about which one counts, so the model
that was admitted could differ from the model that runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from billing.errors import InvalidInput

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_KEY_DECODER = msgspec.json.Decoder(str)

_OPEN = re.compile(rb"[ \t\r\n]*\{")
_KEY = rb'[ \t\r\n]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t\r\n]*:[ \t\r\n]*'
_FIRST = re.compile(_KEY, re.DOTALL)
_NEXT = re.compile(rb"[ \t\r\n]*," + _KEY, re.DOTALL)
_CLOSE = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*\Z")


class Member(NamedTuple):
    """Byte offsets of one member: its key's opening quote, its value, the value's end."""

    start: int
    value: int
    end: int


class Members:
    """A JSON object and where its top-level members lie.

    Attributes:
        body: the whole text.
        values: decoded key → the value's text, views into the body.
        texts: members that were found to be text and nothing else (`plain_text.py`).
    """

    __slots__ = ("_spans", "body", "texts", "values")

    def __init__(
        self,
        body: bytes,
        values: Mapping[str, msgspec.Raw],
        spans: Mapping[str, Member] | None = None,
    ) -> None:
        """
        Args:
            spans: where the members lie; None: they stand as close as JSON lets them.
        """
        self.body = body
        self.values = values
        self.texts: set[str] = set()
        self._spans = spans

    @property
    def spans(self) -> Mapping[str, Member]:
        """Decoded key → where the member lies, in the order of the text."""
        if self._spans is None:
            self._spans = _close_spans(self.values)
        return self._spans


def locate(body: bytes) -> Members:
    """Find the top-level members of a JSON object.

    Raises:
        InvalidInput: not valid JSON, not an object, or a key occurs twice.
    """
    try:
        values = _DECODER.decode(body)
    except msgspec.ValidationError:
        raise InvalidInput("The request body must be a JSON object.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput("The request body is not valid JSON.") from None
    except RecursionError:
        raise InvalidInput("The request body is nested too deeply.") from None
    if len(body) == _least_bytes(values):
        return Members(body, values)
    opening = _OPEN.match(body)
    if opening is None:
        raise InvalidInput("The request body must be a JSON object.")
    return Members(body, values, _walk(body, opening.end(), values))


def _least_bytes(values: Mapping[str, msgspec.Raw]) -> int:
    """Length of the shortest text with these members: no blanks, no escapes in keys, no key twice.

    A text of just that length has none of them, as each would only make it longer: most clients
    write so, and need no step from member to member (3 µs of a request's 70).
    """
    keys, texts = sum(map(len, values)), sum(map(len, map(memoryview, values.values())))
    return keys + texts + 4 * len(values) + 1


def _close_spans(values: Mapping[str, msgspec.Raw]) -> dict[str, Member]:
    """Where the members of a text of `_least_bytes` lie."""
    spans: dict[str, Member] = {}
    start = 1
    for key, value in values.items():
        text = start + len(key) + 3
        end = text + len(memoryview(value))
        spans[key] = Member(start, text, end)
        start = end + 1
    return spans


def _walk(body: bytes, position: int, values: Mapping[str, msgspec.Raw]) -> dict[str, Member]:
    """Step from member to member.

    The decoder keeps a repeated key once, with its last value. Each step therefore checks that
    key and value in the text are the decoded ones; a value is whole JSON, so the step lands on
    the end of that member. With a repeated key some step fails or members are left over.
    """
    spans: dict[str, Member] = {}
    head_of = _FIRST.match
    for key, value in values.items():
        head = head_of(body, position)
        if head is None:
            raise _repeated()
        text, start = head[1], head.end()
        if text != key.encode() and not _same_key(text, key):
            raise _repeated()
        if not body.startswith(value, start):
            raise _repeated()
        position = start + memoryview(value).nbytes
        spans[key] = Member(head.start(1) - 1, start, position)
        head_of = _NEXT.match
    if _CLOSE.match(body, position) is None:
        raise _repeated()
    return spans


def _same_key(text: bytes, key: str) -> bool:
    """Whether a key that is spelled with escapes is the decoded one."""
    return b"\\" in text and _KEY_DECODER.decode(b'"' + text + b'"') == key


def _repeated() -> InvalidInput:
    return InvalidInput(
        "The request body names a member more than once.",
        remedy="Send every member of the JSON object once.",
    )


def splice(members: Members, *, put: Mapping[str, bytes], drop: Collection[str] = ()) -> bytes:
    """The object's text with some members set and some cut out.

    Args:
        put: key → JSON text of its new value. Keys need no escaping in JSON.
        drop: keys to cut out; absent ones are ignored.

    Returns:
        the body itself where nothing changes. Untouched members keep their bytes.
    """
    body, values = members.body, members.values
    if drop and not values.keys().isdisjoint(drop):
        return _rebuild(members, put, frozenset(drop))
    if not put:
        return body
    if values.keys().isdisjoint(put):
        return _insert(members, put)
    spans = members.spans
    replaced = sorted((spans[key], text) for key, text in put.items() if key in spans)
    if len(replaced) < len(put):
        added = {key: text for key, text in put.items() if key not in spans}
        return splice(locate(_insert(members, added)), put=put)
    pieces: list[bytes] = []
    position = 0
    for span, text in replaced:
        pieces += [body[position : span.value], text]
        position = span.end
    return b"".join([*pieces, body[position:]])


def without_member(members: Members, key: str) -> bytes:
    """The object's text without one member and the comma that came with it; all else is kept."""
    spans = list(members.spans.values())
    at = list(members.spans).index(key)
    start, end = spans[at].start, spans[at].end
    if at:
        start = spans[at - 1].end
    elif len(spans) > 1:
        end = spans[1].start
    return members.body[:start] + members.body[end:]


def _rebuild(members: Members, put: Mapping[str, bytes], drop: frozenset[str]) -> bytes:
    """Join the members that stay: only the blanks between members are lost."""
    body, spans = members.body, members.spans
    pieces = [b'"%b":%b' % (key.encode(), text) for key, text in put.items() if key not in spans]
    for key, span in spans.items():
        if key not in drop:
            value = put.get(key, body[span.value : span.end])
            pieces.append(body[span.start : span.value] + value)
    return b"{" + b",".join(pieces) + b"}"


def _insert(members: Members, put: Mapping[str, bytes]) -> bytes:
    """Add members in front, with one copy of the body: the common case for streams."""
    added = b",".join([b'"%b":%b' % (key.encode(), text) for key, text in put.items()])
    comma = b"," if members.values else b""
    opening = members.body.index(b"{") + 1
    return b"".join([members.body[:opening], added, comma, members.body[opening:]])
