"""The folder of one journal instance: its names, its lock, and how far it may be read.

    <directory>/<instance>/lock         flocked by the owner, or by who adopted it
    <directory>/<instance>/durable      how far the records are on the disk
    <directory>/<instance>/refused      where they end for ever, if the disk failed
    <directory>/<instance>/000001.seg   segments, the highest number is the one being written

Decides: who owns a folder, and that no reader sees a record before the disk has it. Without
that, a reader could bill a record that a full disk then makes the owner take back.
Does not decide: what is in the segments.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from billing.errors import JournalError
from billing.journal.disk import DIRECTORY_MODE, FILE_MODE, Disk

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_LOCK: Final = "lock"
_DURABLE: Final = "durable"
_REFUSED: Final = "refused"
UNBORN: Final = ".new-"
_MARK: Final = struct.Struct("<QQ")  # value and its complement: a half-seen write is not a mark
_OFFSET_BITS: Final = 40
_OFFSET_LIMIT: Final = (1 << _OFFSET_BITS) - 1
_OWNER_GONE: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableMark:
    """How far a reader may go.

    Attributes:
        segment, offset: records before this place are durable.
        owner_gone: nobody writes any more; everything that is whole may be read.
    """

    segment: int
    offset: int
    owner_gone: bool

    def readable(self, segment: int, size: int) -> int:
        """Bytes of the newest segment, of `size` bytes, that may be read."""
        if self.owner_gone:
            return size
        return min(self.offset, size) if segment == self.segment else 0


class Lock:
    """An exclusive hold on an instance; it ends with `release` or with the process."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let go; safe to repeat."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def segment_path(instance_dir: Path, number: int) -> Path:
    """Path of a segment by its number."""
    return instance_dir.joinpath(f"{number:06d}.seg")


def segment_number(path: Path) -> int:
    """Number of a segment by its path."""
    return int(path.stem)


def new_name(now_us: int) -> str:
    """A name for a new instance; names sort by age."""
    return f"{now_us:015x}-{secrets.token_hex(4)}"


def is_name(name: str) -> bool:
    """Whether an instance can have this name."""
    return _NAME.fullmatch(name) is not None


def prepare(directory: Path, name: str) -> tuple[Path, Lock]:
    """Make the folder of a new instance, hidden under a name that no reader looks at, and lock it.

    A visible folder is thus always a locked one: nobody can adopt an instance that is being born.

    Raises:
        JournalError: the name is unusable or taken, or the disk refuses.
    """
    if not is_name(name):
        raise JournalError(
            "an instance's name is not usable",
            field="instance",
            remedy="use up to 63 lower-case letters, digits and hyphens",
        )
    unborn = directory.joinpath(UNBORN + name)
    try:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if directory.joinpath(name).exists():
            raise JournalError(
                f"{directory.joinpath(name)} exists: an instance is written by one process, once",
                field="instance",
                remedy="leave the name out, or choose a new one",
            )
        unborn.mkdir(mode=DIRECTORY_MODE)
        lock = _lock(unborn.joinpath(_LOCK), create=True)
    except OSError as refused:
        raise _cannot_create(directory, refused) from None
    if lock is None:
        raise JournalError(f"{unborn} is locked by another process", field="instance")
    return unborn, lock


def reveal(unborn: Path, disk: Disk) -> Path:
    """Give a prepared folder its name, durably."""
    final = unborn.with_name(unborn.name.removeprefix(UNBORN))
    try:
        disk.sync_directory(unborn)
        unborn.rename(final)
        disk.sync_directory(final.parent)
    except OSError as refused:
        raise _cannot_create(final.parent, refused) from None
    return final


def discard(unborn: Path, lock: Lock) -> None:
    """Remove a prepared folder that could not be completed."""
    shutil.rmtree(unborn, ignore_errors=True)
    lock.release()


def sweep(unborn: Path) -> bool:
    """Remove a prepared folder whose owner is dead; False while it lives.

    Raises:
        FileNotFoundError: it has got its name, or is gone.
    """
    lock = _lock(unborn.joinpath(_LOCK), create=True)
    if lock is not None:
        discard(unborn, lock)
    return lock is not None


def adopt(instance_dir: Path) -> Lock | None:
    """Take over the folder of a dead owner; None while the owner lives or the folder is gone.

    Raises:
        JournalError: the folder has no lock file, so nobody can tell whether its owner lives.
    """
    try:
        lock = _lock(instance_dir.joinpath(_LOCK), create=False)
    except FileNotFoundError:
        if not instance_dir.exists():
            return None
        raise JournalError(
            f"{instance_dir} has no lock file",
            remedy="make sure that no proxy writes there, then create an empty file `lock` in it",
        ) from None
    if lock is not None:
        publish(instance_dir, _OWNER_GONE)
    return lock


def open_mark(instance_dir: Path) -> int:
    """Descriptor for `publish_durable`, which its caller closes."""
    return os.open(
        instance_dir.joinpath(_DURABLE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE
    )


def publish_durable(descriptor: int, segment: int, offset: int) -> None:
    """Tell readers that records before this place are on the disk."""
    _write_mark(descriptor, segment << _OFFSET_BITS | offset)


def publish_gone(instance_dir: Path) -> None:
    """Tell readers that nothing more will be written and everything may be read."""
    publish(instance_dir, _OWNER_GONE)


def publish(instance_dir: Path, value: int) -> None:
    """Write a mark through a descriptor of its own."""
    descriptor = open_mark(instance_dir)
    try:
        _write_mark(descriptor, value)
    finally:
        os.close(descriptor)


def read_mark(instance_dir: Path) -> DurableMark:
    """How far the instance may be read; nothing at all if the mark is missing or half-written."""
    value = _read_place(instance_dir.joinpath(_DURABLE))
    return DurableMark(
        segment=value >> _OFFSET_BITS,
        offset=value & _OFFSET_LIMIT,
        owner_gone=value == _OWNER_GONE,
    )


def _read_place(path: Path) -> int:
    """What a mark says; 0 if it is missing or half-written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    if len(content) != _MARK.size:
        return 0
    value, complement = _MARK.unpack(content)
    return int(value) if value ^ complement == _OWNER_GONE else 0


def note_refused(instance_dir: Path, segment: int, offset: int, disk: Disk) -> None:
    """Tell readers that nothing behind this place was ever acknowledged, durably.

    Raises:
        OSError: the disk does not take the note either.
    """
    note = instance_dir.joinpath(_REFUSED)
    unnamed = note.with_suffix(".tmp")
    descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
    try:
        value = segment << _OFFSET_BITS | offset
        disk.write(descriptor, _MARK.pack(value, value ^ _OWNER_GONE), 0)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    unnamed.rename(note)
    disk.sync_directory(instance_dir)


def end_noted(instance_dir: Path, segment: int) -> int | None:
    """Where the records of a segment end, whatever stands behind; None if its file says that."""
    refused = _read_place(instance_dir.joinpath(_REFUSED))
    at_segment, offset = refused >> _OFFSET_BITS, refused & _OFFSET_LIMIT
    return offset if at_segment == segment else None


def remove(instance_dir: Path) -> None:
    """Remove an instance that has no segments left."""
    for left_over in instance_dir.glob("*.tmp"):
        left_over.unlink()
    for name in (_REFUSED, _DURABLE, _LOCK):
        instance_dir.joinpath(name).unlink(missing_ok=True)
    instance_dir.rmdir()


def _write_mark(descriptor: int, value: int) -> None:
    os.pwrite(descriptor, _MARK.pack(value, value ^ _OWNER_GONE), 0)


def _lock(path: Path, *, create: bool) -> Lock | None:
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return Lock(descriptor)


def _cannot_create(directory: Path, refused: OSError) -> JournalError:
    return JournalError(
        f"no journal can be created in {directory}: {refused.strerror}",
        remedy="check that the folder is writable and that its disk has space",
    )
