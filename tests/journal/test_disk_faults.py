"""What a disk that refuses leaves behind: every waiter answered, nothing lost, nothing invented."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing.errors import JournalError
from billing.journal import reader
from billing.journal.journal import Journal
from billing.journal.records import encode
from billing.journal.segment import FRAME_BYTES
from tests.journal.samples import (
    DyingDisk,
    FullDisk,
    TwoStepDisk,
    all_records,
    checkpoint,
    ids,
    intent,
    operation_id,
    usage,
    void,
)


@pytest.mark.parametrize("taken", [0, 10, 200])
async def test_a_full_disk_answers_every_waiter_and_heals_when_space_is_freed(tmp_path, taken):
    disk = FullDisk(taken)
    journal = await Journal.open(tmp_path, disk=disk)
    await journal.append(usage(1))
    disk.full = True
    answers = await asyncio.gather(
        *[journal.append(usage(n)) for n in range(2, 30)], return_exceptions=True
    )
    assert all(isinstance(answer, JournalError) and answer.remedy for answer in answers)
    assert not journal.healthy
    assert journal.failure is not None
    assert "full" in str(journal.failure)
    assert all_records(journal.directory) == [usage(1)]
    disk.full = False
    await journal.append(usage(40))
    assert journal.healthy
    assert journal.failure is None
    assert journal.statistics().refusals == 1
    await journal.close()
    assert all_records(journal.directory) == [usage(1), usage(40)]
    assert reader.is_closed(journal.directory)


async def test_records_nobody_waits_for_survive_a_full_disk(tmp_path):
    disk = FullDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.full = True
    journal.append_soon(void(1))
    journal.append_soon(checkpoint(2, 5))
    journal.append_soon(checkpoint(3, 5))
    with pytest.raises(JournalError):
        await journal.append(usage(4))
    journal.append_soon(checkpoint(2, 6))
    journal.append_soon(void(5))
    with pytest.raises(JournalError):
        await journal.append(usage(6))
    disk.full = False
    await journal.append(usage(7))
    await journal.close()
    found = all_records(journal.directory)
    assert ids(found) == {operation_id(n) for n in (1, 2, 3, 5, 7)}
    assert len(found) == 5
    assert checkpoint(2, 6) in found


async def test_a_refused_checkpoint_never_replaces_a_newer_one(tmp_path):
    class SlowlyRefusingDisk(TwoStepDisk):
        armed = False
        writing = threading.Event()
        gate = threading.Event()

        def write(self, descriptor, content, offset):
            if self.armed:
                self.writing.set()
                assert self.gate.wait(60)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().write(descriptor, content, offset)

    disk = SlowlyRefusingDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.armed = True
    journal.append_soon(checkpoint(1, 5))
    refused = asyncio.create_task(journal.append(usage(2)))
    assert await asyncio.to_thread(disk.writing.wait, 60)
    journal.append_soon(checkpoint(1, 6))
    disk.gate.set()
    with pytest.raises(JournalError):
        await refused
    disk.armed = False
    await journal.close()
    assert all_records(journal.directory) == [checkpoint(1, 6)]


async def test_a_full_queue_on_a_full_disk_is_tried_again_not_waited_for(tmp_path):
    disk = FullDisk()
    journal = await Journal.open(tmp_path, disk=disk, queue_bytes=100)
    disk.full = True
    with contextlib.suppress(JournalError):
        for number in range(10):
            journal.append_soon(void(number))
    for number in (20, 21):
        with pytest.raises(JournalError):
            await journal.append(usage(number))
    disk.full = False
    await journal.append(usage(22))
    await journal.close()
    found = ids(all_records(journal.directory))
    assert {operation_id(0), operation_id(22)} <= found
    assert not {operation_id(20), operation_id(21)} & found


async def test_a_full_disk_at_rotation_keeps_the_old_segment_going(tmp_path):
    disk = FullDisk()
    journal = await Journal.open(tmp_path, disk=disk, segment_bytes=500)
    await journal.append(intent(1))
    size = len(encode(usage(3))) + FRAME_BYTES
    while not journal._appender.is_full_for(size):
        await journal.append(usage(2))
    disk.full = True
    for _ in range(3):
        with pytest.raises(JournalError):
            await journal.append(usage(3))
    assert journal.statistics().segment == 1
    assert [path.suffix for path in journal.directory.iterdir() if path.suffix == ".tmp"] == []
    disk.full = False
    await journal.append(usage(4))
    assert journal.statistics().segment == 2
    await journal.close()
    newest = reader.segments(journal.directory)[-1]
    assert list(reader.records_of(newest.path)) == [intent(1), usage(4)]
    assert operation_id(3) not in ids(all_records(journal.directory))


async def test_a_failed_sync_is_final(tmp_path):
    disk = DyingDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    await journal.append(usage(1))
    disk.dying = True
    with pytest.raises(JournalError, match="failed"):
        await journal.append(usage(2))
    disk.dying = False
    for number in (3, 4):
        with pytest.raises(JournalError, match="cannot be written any more"):
            await journal.append(usage(number))
    with pytest.raises(JournalError):
        journal.append_soon(checkpoint(5, 1))
    assert not journal.healthy
    assert all_records(journal.directory) == [usage(1)]
    with pytest.raises(JournalError):
        await journal.close()
    assert not reader.is_closed(journal.directory)
    adopted = reader.try_adopt(journal.directory)
    assert adopted is not None
    with adopted:
        assert all_records(journal.directory) == [usage(1)]


class StubbornDisk(TwoStepDisk):
    """A disk that fails once: it has written a batch, or a part of it, and cannot cut it off."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.armed = False

    def write(self, descriptor, content, offset):
        if self.armed and self.fails == "write":
            self.armed = False
            os.pwrite(descriptor, content[:-3], offset)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().write(descriptor, content, offset)

    def sync(self, descriptor):
        if self.armed and self.fails == "sync":
            self.armed = False
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(descriptor)

    def truncate(self, descriptor, length):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("fails", ["write", "sync"])
async def test_what_was_refused_is_never_read_though_it_stands_on_the_disk(tmp_path, fails):
    disk = StubbornDisk(fails)
    journal = await Journal.open(tmp_path, disk=disk)
    await journal.append(intent(1))
    await journal.append(usage(2))
    disk.armed = True
    answers = await asyncio.gather(
        journal.append(usage(3)), journal.append(usage(1)), return_exceptions=True
    )
    assert all(isinstance(answer, JournalError) for answer in answers)
    with pytest.raises(JournalError):
        await journal.close()
    (segment,) = reader.segments(journal.directory)
    assert operation_id(3) in segment.path.read_bytes()
    assert not reader.is_closed(journal.directory)
    adopted = reader.try_adopt(journal.directory)
    assert adopted is not None
    with adopted:
        assert all_records(journal.directory) == [intent(1), usage(2)]
    future = datetime.now(UTC) + timedelta(days=30)
    assert reader.prune(journal.directory, segment.number, future) == [segment.path]
    assert not journal.directory.exists()


async def test_a_bug_below_leaves_nothing_to_be_read(tmp_path):
    class ForgetfulDisk(TwoStepDisk):
        armed = False

        def sync(self, descriptor):
            if self.armed:
                self.armed = False
                raise ZeroDivisionError
            super().sync(descriptor)

    disk = ForgetfulDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    await journal.append(usage(1))
    disk.armed = True
    with pytest.raises(JournalError, match="ZeroDivisionError"):
        await journal.append(usage(2))
    with pytest.raises(JournalError):
        await journal.close()
    adopted = reader.try_adopt(journal.directory)
    assert adopted is not None
    with adopted:
        assert all_records(journal.directory) == [usage(1)]


async def test_a_disk_that_is_full_at_the_start_leaves_nothing(tmp_path):
    disk = FullDisk()
    disk.full = True
    with pytest.raises(JournalError):
        await Journal.open(tmp_path, disk=disk)
    assert list(tmp_path.iterdir()) == []


async def test_a_bug_below_answers_the_waiters(tmp_path):
    class BuggyDisk(TwoStepDisk):
        armed = False

        def write(self, descriptor, content, offset):
            if self.armed:
                raise ZeroDivisionError
            super().write(descriptor, content, offset)

    disk = BuggyDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.armed = True
    with pytest.raises(JournalError, match="ZeroDivisionError"):
        await journal.append(usage(1))
    disk.armed = False
    with pytest.raises(JournalError):
        await journal.append(usage(2))
    with pytest.raises(JournalError):
        await journal.close()


async def test_short_writes_are_completed(tmp_path, monkeypatch):
    real_write, mark_bytes = os.pwrite, 16

    def short(descriptor, content, offset):
        taken = content if len(content) == mark_bytes else content[:7]
        return real_write(descriptor, taken, offset)

    monkeypatch.setattr("billing.journal.disk.os.pwrite", short)
    real_through = os.pwritev
    monkeypatch.setattr(
        "billing.journal.disk.os.pwritev",
        lambda descriptor, parts, *rest: real_through(descriptor, [parts[0][:7]], *rest),
    )
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    await journal.close()
    assert all_records(journal.directory) == [usage(1)]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_real_full_disk_loses_no_acknowledged_record(small_disk: Path):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(100_000))
    journal = await Journal.open(small_disk / "journal", segment_bytes=32_768)
    acknowledged: set[bytes] = set()
    refused: set[bytes] = set()

    async def write(numbers: range) -> None:
        for number in numbers:
            try:
                await journal.append(usage(number))
                acknowledged.add(operation_id(number))
            except JournalError:
                refused.add(operation_id(number))

    await asyncio.gather(*[write(range(n * 1000, n * 1000 + 200)) for n in range(8)])
    assert acknowledged
    assert refused
    assert not journal.healthy
    assert ids(all_records(journal.directory)) == acknowledged
    filler.unlink()
    healed_at = len(acknowledged)
    await write(range(90_000, 90_020))
    assert len(acknowledged) == healed_at + 20
    assert journal.healthy
    await journal.close()
    assert ids(all_records(journal.directory)) == acknowledged
