"""JSON that engines write and a strict reader refuses.

Decides: how such a text is made readable for the figures in it. Python's own writer puts NaN and
Infinity where a number has no value, writers that cut text between two UTF-16 units leave half a
pair, and some put a byte order mark in front. What clients get is not touched: a text that was
made readable is good for its figures only.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

_Value = TypeVar("_Value")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_NUMBERS = (b"-Infinity", b"Infinity", b"NaN")
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def read_odd(decoder: msgspec.json.Decoder[_Value], text: bytes | msgspec.Raw) -> _Value | None:
    """What a decoder reads of a text, made readable if it has to be; None if it cannot be."""
    try:
        return decoder.decode(text)
    except _UNREADABLE:
        written = bytes(text)
    readable = _readable(written)
    if readable == written:
        return None
    try:
        return decoder.decode(readable)
    except _UNREADABLE:
        return None


def _readable(text: bytes) -> bytes:
    """Within strings these are words like others: they may change too, and figures do not."""
    text = text.removeprefix(_BYTE_ORDER_MARK)
    for word in _NO_NUMBERS:
        text = text.replace(word, b"null")
    # As long as what it takes the place of, so that a backslash before it stays what it is.
    return _HALF_PAIR.sub(rb"\\u0020", text)
