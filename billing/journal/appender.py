"""The side of the journal that touches files: batches in, one durable segment after the other.

Decides: when bytes count as durable, when a new segment begins, and what a refusal of the disk
leaves behind. What touches the disk runs in the journal's one thread; knows nothing of waiters.

* Batches go where zeros were laid out before, while nobody waited: a sync that has only contents
  to write costs half. A segment that is left behind, or closed in order, ends with its last record;
  behind the last one of a process that died there may be zeros, which read as a torn tail.
* A **full disk** (ENOSPC, EDQUOT) while writing: the segment is cut back to its last durable
  byte, so that what was refused cannot be read later, and the next batch tries again.
* **Any other refusal**, and every failed fsync, is final: the kernel may have dropped the pages
  and would report the next fsync as a success. The instance stays failed; a restarted process
  opens a new one, and the ledger writer adopts the old one. The refused records may stand there,
  and their requests were answered as failed: so the segment is cut back, and a note beside it
  tells readers where it ends. Only a disk that takes neither leaves their fate unknown.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from billing.errors import JournalError
from billing.journal import instance
from billing.journal.disk import FILE_MODE, Disk, can_heal
from billing.journal.segment import HEADER_BYTES, Header, frames_bytes, header_bytes

ROOM_BYTES: Final = 1 << 20
"""Laid out ahead, a half of it at a time."""


class Appender:
    """Writes the segments of one instance.

    Attributes:
        directory: the instance's folder.
        segment: number of the segment being written.
        durable_offset: bytes of it that are on the disk.
        broken: the disk refused in a way that cannot heal.
    """

    __slots__ = (
        "_clock",
        "_descriptor",
        "_disk",
        "_head_bytes",
        "_lock",
        "_mark",
        "_name",
        "_room_end",
        "_segment_bytes",
        "broken",
        "directory",
        "durable_offset",
        "segment",
    )

    def __init__(
        self,
        directory: Path,
        *,
        name: str | None,
        segment_bytes: int,
        clock: Callable[[], int],
        disk: Disk,
    ) -> None:
        """Create the instance and its first segment.

        Raises:
            JournalError: the name is unusable or taken, or the disk refuses.
        """
        self._name = instance.new_name(clock()) if name is None else name
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._disk = disk
        self.broken = False
        self._descriptor = -1
        self.directory, self._lock = instance.prepare(directory, self._name)
        self._mark = -1
        try:
            self._mark = instance.open_mark(self.directory)
            self._begin_segment(1, ())
            self.make_room()
            self.directory = instance.reveal(self.directory, disk)
        except (OSError, JournalError) as refused:
            instance.discard(self.directory, self._lock)
            self._close_files()
            if isinstance(refused, OSError):
                raise _refused(self.directory, refused) from None
            raise

    def is_full_for(self, size: int) -> bool:
        """Whether a batch of `size` bytes belongs in a new segment.

        Carried records do not count: else operations that fill a segment by themselves would
        make every batch begin another one.
        """
        grown = self.durable_offset - self._head_bytes
        return grown > 0 and grown + size > self._segment_bytes

    def framed(self, payloads: Sequence[bytes]) -> bytes:
        """The bytes of the next batch of this segment."""
        return frames_bytes(payloads, self.durable_offset)

    def append(self, content: bytes) -> None:
        """Make a batch durable, as it was framed. Readers learn of it by `publish`.

        Raises:
            JournalError: the disk refused; nothing of the batch counts. `broken` tells whether
                another try can succeed.
        """
        self._refuse_if_broken()
        try:
            self._disk.write_through(self._descriptor, content, self.durable_offset)
        except OSError as refused:
            self._cut_back(heals=can_heal(refused))
            raise _refused(self.directory, refused) from None
        self.durable_offset += len(content)

    def publish(self) -> None:
        """Tell readers how far the segment is durable."""
        # A reader that misses one mark sees the next: never a reason to refuse durable records.
        with contextlib.suppress(OSError):
            instance.publish_durable(self._mark, self.segment, self.durable_offset)

    def make_room(self) -> None:
        """Lay out zeros for the batches to come, if there is little left of the last ones.

        A disk that has no space for them may still have some for records.
        """
        room = min(ROOM_BYTES, self._segment_bytes)
        if self.broken or self._room_end - self.durable_offset >= room // 2:
            return
        start, end = max(self._room_end, self.durable_offset), self.durable_offset + room
        try:
            self._disk.lay_out(self._descriptor, start, end)
        except OSError as refused:
            if not can_heal(refused):
                self.give_up()
            return
        self._room_end = end

    def close(self, *, clean: bool) -> None:
        """Let go of the files and the lock; `clean` if nothing was left unwritten."""
        if clean:
            with contextlib.suppress(OSError):  # a reader takes the zeros for a torn tail
                self._disk.truncate(self._descriptor, self.durable_offset)
            with contextlib.suppress(OSError):  # a reader then waits for the adoption instead
                instance.publish_gone(self.directory)
        self._close_files()
        self._lock.release()

    def rotate(self, carried: Sequence[bytes]) -> None:
        """Begin a new segment with these payloads, of records that stand in the last one.

        Raises:
            JournalError: the disk refused; the last segment goes on.
        """
        self._refuse_if_broken()
        previous = self._descriptor
        try:
            if self._room_end > self.durable_offset:
                # Durably: a sealed segment that does not end with a record is a damaged one.
                self._disk.truncate(previous, self.durable_offset)
                self._room_end = self.durable_offset
                self._disk.sync(previous)
            self._begin_segment(self.segment + 1, carried)
        except OSError as refused:
            self.broken = self.broken or not can_heal(refused)
            raise _refused(self.directory, refused) from None
        finally:
            if self._descriptor != previous:
                os.close(previous)

    def _refuse_if_broken(self) -> None:
        if self.broken:
            raise JournalError(
                f"{self.directory} cannot be written any more: its disk failed",
                remedy="replace the disk, then restart this process: it opens a new journal",
            )

    def _begin_segment(self, number: int, carried: Sequence[bytes]) -> None:
        """Write the head of a segment and only then give it its name.

        A crash in between leaves the previous segment the newest, with everything in it.
        """
        head = frames_bytes(carried, HEADER_BYTES)
        header = Header(
            instance=self._name,
            number=number,
            head_bytes=HEADER_BYTES + len(head),
            created_at_us=self._clock(),
        )
        path = instance.segment_path(self.directory, number)
        unnamed = path.with_suffix(".tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(unnamed, flags, FILE_MODE)
        try:
            self._disk.write(descriptor, header_bytes(header) + head, 0)
            self._disk.sync(descriptor)
            unnamed.rename(path)
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                unnamed.unlink()
            raise
        self._descriptor = descriptor
        self._head_bytes = self.durable_offset = self._room_end = header.head_bytes
        self.segment = number
        try:
            self._disk.sync_directory(self.directory)
        except OSError:
            self.broken = True  # the name may or may not be durable
            raise
        self.publish()

    def give_up(self) -> None:
        """Write nothing more; what is not known to be durable is never read."""
        self.broken = True
        with contextlib.suppress(Exception):  # whatever stopped it may stop the note too
            instance.note_refused(self.directory, self.segment, self.durable_offset, self._disk)

    def _cut_back(self, *, heals: bool) -> None:
        """Take a refused batch out of the segment."""
        try:
            self._disk.truncate(self._descriptor, self.durable_offset)
            self._room_end = self.durable_offset
            self._disk.sync(self._descriptor)
        except OSError:
            heals = False
        if not heals:
            self.give_up()

    def _close_files(self) -> None:
        for descriptor in (self._descriptor, self._mark):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._mark = -1


def _refused(directory: Path, refused: OSError) -> JournalError:
    if can_heal(refused):
        return JournalError(
            f"the disk of {directory} is full: {refused.strerror}",
            remedy="free space; the journal goes on with the next record",
        )
    return JournalError(
        f"the disk of {directory} failed: {refused.strerror}",
        remedy="replace the disk, then restart this process: it opens a new journal",
    )
