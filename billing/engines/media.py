"""Media that a request names by address.

Decides: which addresses an engine may be sent: data, and hosts that the operator allows. Any
other would let a client make a server inside the operator's network fetch what the client cannot
reach. The body is searched for such members first, so that plain text is not decoded for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from billing.engines.nested_members import may_hide_names
from billing.engines.plain_text import is_text
from billing.engines.splice import Members
from billing.engines.unsupported import UnsupportedParameter

MAX_DEPTH = 8

_PROMPTS = ("messages", "input", "system")
_BY_NAME = (b'"image"', b'"video"', b'"audio"', b'"path"')
_ADDRESS = re.compile(
    r"https?://([a-z0-9.-]{1,253})(?::[0-9]{1,5})?(?:[/?#][!-\[\]-~]*)?\Z", re.IGNORECASE
)


class _Part(msgspec.Struct, frozen=True):
    """A message, an item, a part of one or the source of a part: members that may name media."""

    image_url: Raw = Raw(b"")
    video_url: Raw = Raw(b"")
    audio_url: Raw = Raw(b"")
    input_audio: Raw = Raw(b"")
    file_url: Raw = Raw(b"")
    file: Raw = Raw(b"")
    source: Raw = Raw(b"")
    url: Raw = Raw(b"")
    image: Raw = Raw(b"")
    video: Raw = Raw(b"")
    audio: Raw = Raw(b"")
    path: Raw = Raw(b"")
    content: Raw = Raw(b"")
    output: Raw = Raw(b"")


_LIST = msgspec.json.Decoder(list[Raw])
_PART = msgspec.json.Decoder(_Part)
_TEXT = msgspec.json.Decoder(str)
_ADDRESSES = ("image_url", "video_url", "audio_url", "file_url", "url")
_NAMED = ("image", "video", "audio", "path")
_OBJECTS = (*_ADDRESSES, "input_audio", "file", "source", "image", "video", "audio", "output")
_NESTED = ("content", "output")


def require_media(members: Members, *, hosts: frozenset[str], by_name: bool) -> None:
    """Refuse a request that names media anywhere but in itself or on an allowed host.

    Args:
        hosts: names in lower case.
        by_name: the engine also takes an address, or a path of its own disk, in members like
            `image`.

    Raises:
        UnsupportedParameter: with the path of the member, never with the address.
    """
    if is_text(members, _PROMPTS):
        return
    body = members.body
    if (
        b'url"' not in body
        and not (by_name and any(name in body for name in _BY_NAME))
        and not may_hide_names(body)
    ):
        return
    for name in _PROMPTS:
        raw = members.values.get(name)
        if raw is not None:
            _require_list(raw, name, hosts, by_name, depth=0)


def _require_list(raw: Raw, path: str, hosts: frozenset[str], by_name: bool, *, depth: int) -> None:
    for index, piece in _pieces(raw):
        _require_part(piece, f"{path}[{index}]", hosts, by_name, depth=depth)


def _pieces(raw: Raw) -> Iterator[tuple[int, Raw]]:
    if bytes(memoryview(raw)[:1]) != b"[":
        return
    try:
        pieces = _LIST.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return
    for index, piece in enumerate(pieces):
        if bytes(memoryview(piece)[:1]) == b"{":
            yield index, piece


def _require_part(raw: Raw, path: str, hosts: frozenset[str], by_name: bool, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _refused(path)
    try:
        part = _PART.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _refused(path) from None
    for name in (*_ADDRESSES, *(_NAMED if by_name else ())):
        address: Raw = getattr(part, name)
        if bytes(memoryview(address)[:1]) == b'"' and not _allowed(address, hosts):
            raise _refused(f"{path}.{name}")
    for name in _OBJECTS:
        inner: Raw = getattr(part, name)
        if bytes(memoryview(inner)[:1]) == b"{":
            _require_part(inner, f"{path}.{name}", hosts, by_name, depth=depth + 1)
    for name in _NESTED:
        nested: Raw = getattr(part, name)
        _require_list(nested, f"{path}.{name}", hosts, by_name, depth=depth + 1)


def _allowed(address: Raw, hosts: frozenset[str]) -> bool:
    """Whether an address is data or on an allowed host; data is not copied to be seen."""
    if bytes(memoryview(address)[:6]) == b'"data:':
        return True
    try:
        text = _TEXT.decode(address)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    if not text or text[:5].lower() == "data:":
        return True
    match = _ADDRESS.match(text)
    return match is not None and match[1].lower() in hosts


def _refused(path: str) -> UnsupportedParameter:
    return UnsupportedParameter(
        "The request names media by an address that may not be fetched.",
        field=path,
        remedy="Send the media itself as a data: URL.",
    )
