"""What a backend's answer about a stored object says of ids, and of its end.

Decides: which ids of an answer its client could send back. Everything else of it passes unread.
"""

from __future__ import annotations

import msgspec

from billing.errors import UpstreamError


class _Answer(msgspec.Struct, frozen=True):
    id: str
    output_file_id: str | None = None
    error_file_id: str | None = None
    expires_at: object = None


_LATEST_US = 253_402_300_800_000_000
"""Since 1970 UTC: no calendar of ours has what comes then."""

_DECODER = msgspec.json.Decoder(_Answer)


def object_id(body: bytes) -> str:
    """The id of the object that an answer shows.

    Raises:
        UpstreamError: it shows none.
    """
    return _read(body).id


def batch_files(body: bytes) -> tuple[str, ...]:
    """Ids of the files that a batch has written by now.

    Raises:
        UpstreamError: the answer shows no batch.
    """
    answer = _read(body)
    return tuple(name for name in (answer.output_file_id, answer.error_file_id) if name)


def file_end_us(body: bytes, *, now_us: int) -> int | None:
    """When the backend drops the file that it has just taken, in µs since 1970 UTC; None: unsaid.

    Raises:
        UpstreamError: the answer shows no file.
    """
    told = _read(body).expires_at
    # Anything else in its place is as if nothing was said: the file is there all the same.
    if not isinstance(told, int) or not now_us < told * 1_000_000 < _LATEST_US:
        return None
    return told * 1_000_000


def _read(body: bytes) -> _Answer:
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamError("The inference backend's answer cannot be used.") from None
