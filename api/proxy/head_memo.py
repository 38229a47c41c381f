"""The last head of a connection, so that one that says the same again is not parsed again.

Decides: which bytes are such a request: a head that equals, byte for byte, one that the strict
parser has taken on this connection, but for the digits of its content-length, then a body of just
that length, and nothing else. Everything else goes to the parser. Clients keep their connections
and send the same twelve headers with every request: reading them again is a seventh of its cost.

Does not decide what a valid request is: it knows only what was one.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from api.proxy.client_request import ClientRequest
from api.proxy.headers import Fields, Headers

LENGTH: Final = b"content-length"
DIGITS_MAX: Final = 10
_LENGTHS: Final = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)\r\n")
_MEAN_MORE: Final = frozenset(
    {b"expect", b"http2-settings", b"trailer", b"transfer-encoding", b"upgrade"}
)


class Recalled(NamedTuple):
    """A request that was said before, with a body of its own."""

    headers: Headers
    fields: Fields
    body: bytes


class HeadMemo:
    """One head, without the body that it came with. Make it with `memo_of`."""

    __slots__ = (
        "_after",
        "_before",
        "_digits",
        "_fields",
        "_headers",
        "_position",
        "method",
        "path",
        "query",
    )

    def __init__(self, request: ClientRequest, before: bytes, digits: bytes, after: bytes) -> None:
        self.method, self.path, self.query = request.method, request.path, request.query
        self._before, self._digits, self._after = before, digits, after
        self._headers, self._fields = request.headers, request.fields
        self._position = self._headers.index((LENGTH, digits))

    def recall(self, content: bytes) -> Recalled | None:
        """The request that these bytes are, if its head was said before and it is complete."""
        if not content.startswith(self._before):
            return None
        start = len(self._before)
        end = content.find(b"\r", start, start + DIGITS_MAX + 1)
        if end < 0 or not content.startswith(self._after, end):
            return None
        digits, body = content[start:end], content[end + len(self._after) :]
        if not digits.isdigit() or len(body) != int(digits):
            return None
        if digits == self._digits:
            return Recalled(self._headers, self._fields, body)
        headers = self._headers.copy()
        headers[self._position] = LENGTH, digits
        return Recalled(headers, {**self._fields, LENGTH: digits}, body)


def memo_of(content: bytes, request: ClientRequest) -> HeadMemo | None:
    """Remember the head of a request that the parser took.

    Args:
        content: the request and nothing else, from its first byte to its last.

    Returns:
        None where more than its bytes decides what it means, or its length is not plainly said.
    """
    fields = request.fields
    if (
        not request.keeps_alive
        or len(fields) != len(request.headers)
        or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or not fields.keys().isdisjoint(_MEAN_MORE)
    ):
        return None
    length = fields.get(LENGTH)
    if length is None or len(length) > DIGITS_MAX:
        return None
    head = content[: len(content) - int(length)]
    said = list(_LENGTHS.finditer(head))
    if len(said) != 1 or said[0][1] != length or head.find(b"\r\n\r\n") != len(head) - 4:
        return None
    return HeadMemo(request, head[: said[0].start(1)], length, head[said[0].end(1) :])
