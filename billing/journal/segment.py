"""The segment file: its header, its frames, and what a damaged frame means.

    header   magic, format version, segment number, head bytes, created_at, instance, crc
    frame    length, crc, batch start, payload                        (repeated)

`batch start` is the offset of the first frame that was written together with this one. A batch
is written only after the one before it is on the disk, so a valid frame proves that every byte
before its batch start was durable. That decides what a bad frame is:

* no valid frame says that its bytes were durable: a **torn tail**, the end of the log. Nobody
  was told that these records were kept.
* some valid frame says so: **corruption** of acknowledged records. Refused, with the offset.

The crc covers length and batch start too, so a tail of zeros, as a file system may leave after
a power cut, is never a valid frame.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from billing.errors import JournalError
from billing.journal.records import PAYLOAD_LIMIT

FORMAT_VERSION: Final = 1
INSTANCE_LIMIT: Final = 64  # bytes of an instance's name in the header

_MAGIC: Final = b"STEELYRD"
_MAGIC_AND_VERSION: Final = struct.Struct("<8sI")  # these two stay in place in every version
_HEADER_BODY: Final = struct.Struct(f"<8sIIIQ{INSTANCE_LIMIT}s")
_CRC: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<III")  # length, crc, batch start
_CHECKED: Final = struct.Struct("<II")  # length and batch start, as the crc sees them

HEADER_BYTES: Final = _HEADER_BODY.size + _CRC.size
FRAME_BYTES: Final = _FRAME.size

# A length of up to 1 MiB, eight bytes of crc and batch start, then a msgpack array: where a frame
# could begin, found at the speed of the regex engine.
_FRAME_LIKE: Final = re.compile(rb"(?s)(?=..[\x00-\x10]\x00.{8}(?:[\x92-\x9f][\x00-\x7f]|\xdc))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a segment says of itself.

    Attributes:
        head_bytes: length of the header and of the records carried over behind it, which were
            durable before the file got its name.
    """

    instance: str
    number: int
    head_bytes: int
    created_at_us: int


class Frame(NamedTuple):
    """One valid frame. Plain, because one is made per record.

    Attributes:
        end: offset in the buffer just behind it.
        batch_start: offset in the file before which everything was durable.
    """

    payload: memoryview
    end: int
    batch_start: int


def header_bytes(header: Header) -> bytes:
    """The first bytes of a segment file."""
    body = _HEADER_BODY.pack(
        _MAGIC,
        FORMAT_VERSION,
        header.number,
        header.head_bytes,
        header.created_at_us,
        header.instance.encode(),
    )
    return body + _CRC.pack(zlib.crc32(body))


def parse_header(data: bytes, path: Path) -> Header:
    """Read the header of `path`.

    Raises:
        JournalError: not a segment, written by another version, or damaged.
    """
    if len(data) < _MAGIC_AND_VERSION.size or data[: len(_MAGIC)] != _MAGIC:
        raise JournalError(f"{path} is not a journal segment", remedy="move the file elsewhere")
    _, version = _MAGIC_AND_VERSION.unpack_from(data)
    if version != FORMAT_VERSION:
        raise JournalError(
            f"{path} has journal format {version}, this version reads {FORMAT_VERSION}",
            remedy="drain this folder with the version of Steelyard that wrote it",
        )
    if len(data) < HEADER_BYTES:
        raise corrupt(path, 0)
    body = data[: _HEADER_BODY.size]
    if zlib.crc32(body) != _CRC.unpack_from(data, _HEADER_BODY.size)[0]:
        raise corrupt(path, 0)
    _, _, number, head_bytes, created_at_us, instance = _HEADER_BODY.unpack(body)
    return Header(
        instance=instance.rstrip(b"\0").decode("ascii", "replace"),
        number=number,
        head_bytes=head_bytes,
        created_at_us=created_at_us,
    )


def frames_bytes(payloads: Iterable[bytes], batch_start: int) -> bytes:
    """The frames of one batch that begins at offset `batch_start` of its file."""
    parts: list[bytes] = []
    for payload in payloads:
        length = len(payload)
        crc = zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, batch_start)))
        parts.append(_FRAME.pack(length, crc, batch_start))
        parts.append(payload)
    return b"".join(parts)


def frame_at(data: memoryview, position: int) -> Frame | None:
    """The valid frame at `position` of a buffer, or None if there is none."""
    if position + FRAME_BYTES > len(data):
        return None
    length, crc, batch_start = _FRAME.unpack_from(data, position)
    start, end = position + FRAME_BYTES, position + FRAME_BYTES + length
    if not 0 < length <= PAYLOAD_LIMIT or end > len(data):
        return None
    payload = data[start:end]
    if crc != zlib.crc32(payload, zlib.crc32(_CHECKED.pack(length, batch_start))):
        return None
    return Frame(payload, end, batch_start)


def frames(data: memoryview, position: int) -> Iterator[Frame]:
    """Valid frames one after the other from `position`; stops at the first that is not."""
    while (frame := frame_at(data, position)) is not None:
        yield frame
        position = frame.end


def is_proved_durable(tail: bytes, offset: int) -> bool:
    """Whether a frame in `tail`, the file's bytes from `offset` on, proves `offset` was durable.

    Frames are looked for at every position, for the damage may be in a length.
    """
    view = memoryview(tail)
    for match in _FRAME_LIKE.finditer(tail, 1):
        frame = frame_at(view, match.start())
        if frame is not None and frame.batch_start > offset:
            return True
    return False


def corrupt(path: Path, offset: int) -> JournalError:
    """Acknowledged bytes cannot be read back."""
    return JournalError(
        f"{path} is damaged at offset {offset}, in records that were acknowledged",
        remedy="restore the file from a copy, or move it away and account for its loss by hand",
    )
