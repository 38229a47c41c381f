"""The system calls that the journal trusts, in one place.

Decides: which calls make bytes and names durable, and which refusals of the disk can heal.
It is the seam where fault tests count the syncs and refuse the writes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

# Space can be freed. Every other refusal leaves it unknown what is on the disk: after a failed
# fsync the kernel may report success for pages that it has dropped, so no fsync is ever retried.
_HEALING: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# macOS has no fdatasync
_sync_contents = getattr(os, "fdatasync", os.fsync)

_WRITE_THROUGH: Final[int | None] = getattr(os, "RWF_DSYNC", None)
"""Linux only. What it made durable counts; what it refused is written again or never."""


class Disk:
    """Real files. A test subclasses it to fail on purpose."""

    def write(self, descriptor: int, content: bytes, offset: int) -> None:
        """Write all of `content` at `offset` of the file.

        Raises:
            OSError: the disk refuses; part of the bytes may have been written.
        """
        _write_all(descriptor, content, offset)

    def write_through(self, descriptor: int, content: bytes, offset: int) -> None:
        """Write all of `content` at `offset` and make it durable, in one call where there is one.

        Raises:
            OSError: the disk refuses; part of the bytes may have been written.
        """
        if _WRITE_THROUGH is None:
            _write_all(descriptor, content, offset)
            _sync_contents(descriptor)
            return
        view = memoryview(content)
        while view:
            written = os.pwritev(descriptor, (view,), offset, _WRITE_THROUGH)
            view, offset = view[written:], offset + written

    def sync(self, descriptor: int) -> None:
        """Make the contents and length of the file durable."""
        _sync_contents(descriptor)

    def lay_out(self, descriptor: int, start: int, end: int) -> None:
        """Fill a file with zeros from `start` to `end`, durably.

        What is written there later changes neither the length nor the blocks of the file, so its
        sync has no metadata to write: about half of what it costs otherwise.

        Raises:
            OSError: the disk refuses; some of the zeros may stand there.
        """
        _write_all(descriptor, bytes(end - start), start)
        _sync_contents(descriptor)

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def truncate(self, descriptor: int, length: int) -> None:
        """Cut the file back to `length`."""
        os.ftruncate(descriptor, length)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def can_heal(error: OSError) -> bool:
    """Whether the same bytes may be written again once the operator has acted."""
    return error.errno in _HEALING
