"""Zeros laid out ahead of the records: what readers, rotation and full disks make of them."""

from __future__ import annotations

import errno
import os

import pytest

from billing.errors import JournalError
from billing.journal import reader
from billing.journal.appender import ROOM_BYTES
from billing.journal.disk import Disk
from billing.journal.journal import Journal
from tests.journal.samples import all_records, usage


class RoomlessDisk(Disk):
    """A disk that refuses zeros."""

    def __init__(self, error: int) -> None:
        self.error = error

    def lay_out(self, descriptor, start, end):
        os.pwrite(descriptor, bytes((end - start) // 2), start)
        raise OSError(self.error, os.strerror(self.error))


def segment_sizes(journal: Journal) -> list[int]:
    return [segment.path.stat().st_size for segment in reader.segments(journal.directory)]


async def test_there_is_room_ahead_and_none_behind_an_orderly_end(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    (size,) = segment_sizes(journal)
    assert size >= journal.statistics().durable_offset + ROOM_BYTES // 2
    await journal.close()
    assert segment_sizes(journal) == [journal.statistics().durable_offset]
    assert reader.is_closed(journal.directory)


async def test_room_grows_with_the_records(tmp_path):
    journal = await Journal.open(tmp_path)
    for number in range(3 * ROOM_BYTES // 100_000):
        record = usage(number)
        record.raw.update({f"{number}-{leaf}": leaf for leaf in range(10_000)})
        await journal.append(record)
        # What is laid out may lag by the batch that was just written, and never cuts it off.
        assert segment_sizes(journal)[0] >= journal.statistics().durable_offset
    assert journal.statistics().durable_offset > 2 * ROOM_BYTES
    await journal.close()
    assert len(all_records(journal.directory)) == 3 * ROOM_BYTES // 100_000


async def test_a_segment_that_is_left_behind_ends_with_its_last_record(tmp_path):
    journal = await Journal.open(tmp_path, segment_bytes=1_000)
    for number in range(40):
        await journal.append(usage(number))
    sealed = [segment for segment in reader.segments(journal.directory) if segment.sealed]
    assert len(sealed) > 1
    for segment in sealed:
        assert reader.end_of_records(segment.path) == segment.path.stat().st_size
    assert all_records(journal.directory) == [usage(number) for number in range(40)]
    await journal.close()


async def test_zeros_that_a_dead_process_left_are_the_end_of_its_records(tmp_path):
    journal = await Journal.open(tmp_path)
    for number in range(5):
        await journal.append(usage(number))
    durable = journal.statistics().durable_offset
    journal._appender._lock.release()  # as the kernel does when a process dies
    adopted = reader.try_adopt(journal.directory)
    assert adopted is not None
    with adopted:
        (segment,) = reader.segments(journal.directory)
        assert reader.end_of_records(segment.path) == durable < segment.path.stat().st_size
        page = reader.read_from(segment.path, durable)
        assert (page.records, page.next_offset, page.at_end) == ([], durable, True)
        assert all_records(journal.directory) == [usage(number) for number in range(5)]
        assert not reader.is_closed(journal.directory)


async def test_a_disk_without_space_for_zeros_takes_records_while_it_can(tmp_path):
    journal = await Journal.open(tmp_path, disk=RoomlessDisk(errno.ENOSPC))
    for number in range(5):
        await journal.append(usage(number))
    assert journal.healthy
    await journal.close()
    assert all_records(journal.directory) == [usage(number) for number in range(5)]
    assert segment_sizes(journal) == [journal.statistics().durable_offset]


async def test_a_disk_that_fails_at_the_zeros_is_not_trusted_with_records(tmp_path):
    journal = await Journal.open(tmp_path, disk=RoomlessDisk(errno.EIO))
    with pytest.raises(JournalError, match="cannot be written any more"):
        await journal.append(usage(1))
    with pytest.raises(JournalError):
        await journal.close()
    assert all_records(journal.directory) == []
