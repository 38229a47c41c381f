"""A message's head that was said before on a connection, so that it need not be parsed again.

Decides: which bytes are another message with that head: a head that equals, byte for byte, one
that the strict parser has taken, but for the digits of its content-length, then a body of just
that length, and nothing else. Everything else goes to the parser. Whoever keeps a connection says
the same with every message: reading it again is a seventh of what a request costs.

Does not decide what a valid message is: it knows only what was one.
"""

from __future__ import annotations

import re
from typing import Final

from api.proxy.headers import Headers

LENGTH: Final = b"content-length"
DIGITS_MAX: Final = 10
VAIN_MAX: Final = 4
"""Heads that are remembered in vain before a peer is taken for one that repeats none."""

_LENGTHS: Final = re.compile(rb"(?i)\r\ncontent-length:[ \t]*([0-9]+)\r\n")


class SaidHead:
    """One head, without the body that it came with. Make it with `said_head`."""

    __slots__ = ("_after", "_before", "_digits", "_headers", "_position", "_start")

    def __init__(self, headers: Headers, before: bytes, digits: bytes, after: bytes) -> None:
        self._before, self._digits, self._after = before, digits, after
        self._start = len(before)
        self._headers = headers
        self._position = headers.index((LENGTH, digits))

    def body_of(self, content: bytes) -> tuple[bytes, bytes] | None:
        """The length, as it is said, and the body of the message that these bytes are; None
        unless its head was said before and it is complete."""
        if not content.startswith(self._before):
            return None
        start = self._start
        end = content.find(b"\r", start, start + DIGITS_MAX + 1)
        if end < 0 or not content.startswith(self._after, end):
            return None
        digits, end = content[start:end], end + len(self._after)
        if not digits.isdigit() or len(content) - end != int(digits):
            return None
        return digits, content[end:]

    def headers(self, digits: bytes) -> Headers:
        """The head's, with the length that was said now."""
        if digits == self._digits:
            return self._headers
        headers = self._headers.copy()
        headers[self._position] = LENGTH, digits
        return headers


def said_head(content: bytes, headers: Headers, length: bytes) -> SaidHead | None:
    """Remember a head that the parser took.

    Args:
        content: the message and nothing else, from its first byte to its last.
        headers: of it; names in lower case.
        length: the value of its only content-length.

    Returns:
        None where its length is not plainly said.
    """
    if not length.isdigit() or len(length) > DIGITS_MAX or int(length) > len(content):
        return None
    head = content[: len(content) - int(length)]
    said = list(_LENGTHS.finditer(head))
    if len(said) != 1 or said[0][1] != length or head.find(b"\r\n\r\n") != len(head) - 4:
        return None
    return SaidHead(headers, head[: said[0].start(1)], length, head[said[0].end(1) :])
