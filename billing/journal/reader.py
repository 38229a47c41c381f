"""Reading journals: the ledger writer's side, in its own process and synchronous.

Decides: which records may be read now, and when a folder's owner is dead.
Does not decide: what is done with them, nor what an operation that was cut off is worth
(`recovery.py`).

How to drain one instance: `try_adopt` it; `segments` in order, `read_from` each until it is at
its end; a sealed segment's end is final, the last one's is final once the instance is adopted or
closed. Then, and only for a dead owner, `recover` over the newest segment and the unshipped
ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from billing.errors import JournalError
from billing.journal import instance
from billing.journal.records import PAYLOAD_LIMIT, Checkpoints, Closed, Record, decode
from billing.journal.segment import (
    FRAME_BYTES,
    HEADER_BYTES,
    corrupt,
    frames,
    is_proved_durable,
    parse_header,
)

PAGE_BYTES: Final = 2 << 20
KEEP_MS: Final = 72 * 3600 * 1000
_LARGEST_FRAME: Final = FRAME_BYTES + PAYLOAD_LIMIT
_TRAILER_BYTES: Final = 64  # more than the frame of a Closed can take


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One file of an instance; `sealed` once a newer one exists."""

    path: Path
    number: int
    sealed: bool


class Page(NamedTuple):
    """Some records, where to go on, and whether nothing more can be read there now."""

    records: list[Record]
    next_offset: int
    at_end: bool


def list_instances(directory: Path) -> list[Path]:
    """Folders of all instances, oldest name first; none if the directory does not exist.

    Others are none of ours: `lost+found`, where the journal has a disk of its own.
    """
    if not directory.is_dir():
        return []
    return sorted(
        entry for entry in directory.iterdir() if instance.is_name(entry.name) and entry.is_dir()
    )


def sweep_unborn(directory: Path, older_than: datetime) -> int:
    """Remove what processes left that died while they created an instance; how many folders.

    Only those that nobody holds locked and that were last touched before `older_than`.
    """
    removed = 0
    for folder in directory.glob(f"{instance.UNBORN}*"):
        with suppress(FileNotFoundError):  # born, or swept by its own process, meanwhile
            touched = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
            removed += touched < older_than and instance.sweep(folder)
    return removed


def segments(instance_dir: Path) -> list[Segment]:
    """Segments of an instance in their order; a file moved aside under another name is none."""
    paths = sorted(
        (path for path in instance_dir.glob("*.seg") if path.stem.isdecimal()),
        key=instance.segment_number,
    )
    return [
        Segment(path=path, number=instance.segment_number(path), sealed=path is not paths[-1])
        for path in paths
    ]


def try_adopt(instance_dir: Path) -> instance.Lock | None:
    """Take over an instance whose owner is dead; None while the owner lives.

    The caller keeps the lock while it works on the instance. From then on everything whole in
    it may be read.

    Raises:
        JournalError: there is no lock file to tell by.
    """
    return instance.adopt(instance_dir)


def is_closed(instance_dir: Path) -> bool:
    """Whether the instance ended in order: its trailer is the last thing in its newest segment."""
    newest = segments(instance_dir)[-1:]
    if not newest:
        return False
    with newest[0].path.open("rb") as file:
        size = _size(file.fileno(), newest[0].path)
        tail = memoryview(os.pread(file.fileno(), _TRAILER_BYTES, max(0, size - _TRAILER_BYTES)))
    return any(
        frame.end == len(tail) and isinstance(decode(frame.payload), Closed)
        for start in range(len(tail) - FRAME_BYTES)
        for frame in frames(tail, start)
    )


def read_from(segment_path: Path, offset: int = 0, limit_bytes: int = PAGE_BYTES) -> Page:
    """Records of a segment from `offset` on (0 = its beginning), about `limit_bytes` of them.

    Of a live instance only what is durable is read; of a dead one everything up to the torn
    tail. `next_offset` is where the next call goes on; it never points into a frame.

    Raises:
        JournalError: acknowledged records are damaged, or another version wrote the file.
    """
    with segment_path.open("rb") as file:
        header = parse_header(file.read(HEADER_BYTES), segment_path)
        offset = max(offset, HEADER_BYTES)
        mark = instance.read_mark(segment_path.parent)
        sealed = instance.segment_path(segment_path.parent, header.number + 1).exists()
        size = _size(file.fileno(), segment_path)  # after `sealed`: then it is final
        # A sealed segment is read whole whatever the mark says: a mark that is being written
        # reads as nothing, and the caller would leave the rest behind.
        readable = size if sealed else mark.readable(header.number, size)
        wanted = min(limit_bytes, readable - offset)
        page = _page(os.pread(file.fileno(), max(wanted, 0), offset), offset, segment_path)
        if page.next_offset >= readable:
            return Page(page.records, page.next_offset, at_end=True)
        if page.next_offset > offset:
            return Page(page.records, page.next_offset, at_end=False)
        if wanted < min(_LARGEST_FRAME, readable - offset):
            return read_from(segment_path, offset, _LARGEST_FRAME)
        tail = os.pread(file.fileno(), readable - offset, offset)
        may_be_torn = mark.owner_gone and not sealed and offset >= header.head_bytes
        if not may_be_torn or is_proved_durable(tail, offset):
            raise corrupt(segment_path, offset)
        return Page([], offset, at_end=True)


def records_of(segment_path: Path, offset: int = 0, until: int | None = None) -> Iterator[Record]:
    """The records of a segment that can be read now, page by page.

    Args:
        until: offset to read to, and a page beyond it at most; None means all.
    """
    at_end = False
    while not at_end and (until is None or offset < until):
        records, offset, at_end = read_from(segment_path, offset)
        yield from records


def end_of_records(segment_path: Path) -> int:
    """Offset behind the last whole record of a segment, whoever owns it and whatever follows."""
    content = memoryview(segment_path.read_bytes())
    end = HEADER_BYTES
    for frame in frames(content, HEADER_BYTES):
        end = frame.end
    return end


def prune(
    instance_dir: Path, shipped_through_segment: int, now: datetime, keep_ms: int = KEEP_MS
) -> list[Path]:
    """Remove segments that are shipped and were last written `keep_ms` ago; returns their paths.

    The newest segment goes only with an owner that is gone, and the folder with its last one.
    """
    owner_gone = instance.read_mark(instance_dir).owner_gone
    oldest_kept = now - timedelta(milliseconds=keep_ms)
    removed: list[Path] = []
    for segment in segments(instance_dir):
        written = datetime.fromtimestamp(segment.path.stat().st_mtime, UTC)
        shipped = segment.number <= shipped_through_segment
        if not shipped or written > oldest_kept or not (segment.sealed or owner_gone):
            break  # in order, so that the segments left are always the newest
        segment.path.unlink()
        removed.append(segment.path)
    if removed and owner_gone and not segments(instance_dir):
        instance.remove(instance_dir)
    return removed


def _size(descriptor: int, segment_path: Path) -> int:
    """Bytes of a segment, without those that its owner's disk refused."""
    size = os.fstat(descriptor).st_size
    noted = instance.end_noted(segment_path.parent, instance.segment_number(segment_path))
    return size if noted is None else min(size, noted)


def _page(content: bytes, offset: int, path: Path) -> Page:
    records: list[Record] = []
    position = 0
    for frame in frames(memoryview(content), 0):
        try:
            record = decode(frame.payload)
        except JournalError as unknown:
            raise JournalError(
                f"{path} at offset {offset + position}: {unknown.message}", remedy=unknown.remedy
            ) from None
        if isinstance(record, Checkpoints):
            records += record.items
        elif not isinstance(record, Closed):
            records.append(record)
        position = frame.end
    return Page(records, offset + position, at_end=False)
