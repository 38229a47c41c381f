"""Group commit, rotation, back-pressure, closing."""

from __future__ import annotations

import asyncio
import stat

import pytest

from billing.errors import JournalError
from billing.journal import reader
from billing.journal.journal import CROWD, ENOUGH, Journal
from billing.journal.records import Checkpoint, Intent
from billing.journal.recovery import recover
from tests.journal.samples import (
    FullDisk,
    GatedDisk,
    all_records,
    checkpoint,
    ids,
    intent,
    operation_id,
    usage,
    void,
)


async def reached_disk(disk: GatedDisk) -> None:
    """Wait until the journal's thread stands at the gate."""
    assert await asyncio.to_thread(disk.syncing.wait, 60)


async def test_an_acknowledged_record_can_be_read_while_the_journal_is_open(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(intent(1))
    await journal.append(usage(1))
    assert all_records(journal.directory) == [intent(1), usage(1)]
    assert journal.healthy
    assert not reader.is_closed(journal.directory)
    await journal.close()
    assert all_records(journal.directory) == [intent(1), usage(1)]
    assert reader.is_closed(journal.directory)


async def test_append_returns_only_after_the_sync_and_no_reader_sees_the_record_before(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.close_gate()
    waiting = asyncio.create_task(journal.append(usage(1)))
    await reached_disk(disk)
    assert not waiting.done()
    assert all_records(journal.directory) == []
    assert journal.statistics().backlog_records == 1
    disk.gate.set()
    await waiting
    assert all_records(journal.directory) == [usage(1)]
    await journal.close()


async def test_records_that_arrive_during_a_sync_share_the_next_one(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.close_gate()
    before = disk.syncs
    first = asyncio.create_task(journal.append(usage(0)))
    await reached_disk(disk)
    others = [asyncio.create_task(journal.append(usage(n))) for n in range(1, 501)]
    await asyncio.sleep(0)
    disk.gate.set()
    await asyncio.gather(first, *others)
    assert disk.syncs - before == 2
    statistics = journal.statistics()
    assert (statistics.records, statistics.batches) == (501, 2)
    assert statistics.backlog_records == statistics.backlog_bytes == 0
    assert ids(all_records(journal.directory)) == {operation_id(n) for n in range(501)}
    await journal.close()


async def test_a_queued_checkpoint_is_replaced_by_the_next_of_its_operation(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.close_gate()
    first = asyncio.create_task(journal.append(intent(1)))
    await reached_disk(disk)
    for output in range(1, 1001):
        journal.append_soon(checkpoint(1, output))
        journal.append_soon(checkpoint(2, output))
    assert journal.statistics().backlog_records == 3
    disk.gate.set()
    await first
    await journal.append(void(3))
    written = [r for r in all_records(journal.directory) if isinstance(r, Checkpoint)]
    assert written == [checkpoint(1, 1000), checkpoint(2, 1000)]
    await journal.close()


async def test_append_soon_writes_without_anybody_waiting(tmp_path):
    journal = await Journal.open(tmp_path)
    journal.append_soon(void(1))
    journal.append_soon(checkpoint(2, 7))
    await journal.close()
    assert all_records(journal.directory) == [checkpoint(2, 7), void(1)]


async def test_a_full_queue_makes_append_wait_and_append_soon_refuse(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk, queue_bytes=300)
    disk.close_gate()
    first = asyncio.create_task(journal.append(usage(0)))
    await reached_disk(disk)
    waiting = [asyncio.create_task(journal.append(usage(n))) for n in range(1, 50)]
    await asyncio.sleep(0)
    statistics = journal.statistics()
    assert statistics.backlog_bytes < 600
    assert statistics.backlog_records < 10
    with pytest.raises(JournalError, match="queue"):
        journal.append_soon(void(99))
    journal.append_soon(checkpoint(98, 1))  # bounded by the operations, so always taken
    disk.gate.set()
    await asyncio.gather(first, *waiting)
    await journal.close()
    assert ids(all_records(journal.directory)) == {operation_id(n) for n in [*range(50), 98]}


async def test_a_full_queue_takes_what_ends_an_open_operation(tmp_path):
    """Refused, it would stay open and be carried along until the process ends."""
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk, queue_bytes=300)
    for number in (1, 2):
        await journal.append(intent(number))
    disk.close_gate()
    in_flight = asyncio.create_task(journal.append(intent(3)))
    await reached_disk(disk)
    queued = asyncio.create_task(journal.append(intent(4)))
    fillers = [asyncio.create_task(journal.append(usage(n))) for n in range(20, 30)]
    await asyncio.sleep(0)
    queued.cancel()  # its client has left; its intent is written all the same
    with pytest.raises(JournalError, match="queue"):
        journal.append_soon(void(99))
    journal.append_soon(usage(1))
    for number in (2, 3, 4):
        journal.append_soon(void(number))
    disk.gate.set()
    await asyncio.gather(in_flight, *fillers)
    assert journal.statistics().open_operations == 0
    await journal.close()
    assert recover(all_records(journal.directory)) == []


async def test_an_intent_that_the_disk_refused_opens_nothing(tmp_path):
    disk = FullDisk()
    journal = await Journal.open(tmp_path, disk=disk, queue_bytes=1)
    disk.full = True
    with pytest.raises(JournalError):
        await journal.append(intent(1))
    journal.append_soon(void(2))
    with pytest.raises(JournalError, match="queue"):
        journal.append_soon(void(1))
    disk.full = False
    await journal.append(usage(3))
    assert journal.statistics().open_operations == 0
    await journal.close()


async def test_a_cancelled_waiter_harms_nobody(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    disk.close_gate()
    cancelled = asyncio.create_task(journal.append(usage(1)))
    other = asyncio.create_task(journal.append(usage(2)))
    await reached_disk(disk)
    cancelled.cancel()
    disk.gate.set()
    await other
    assert cancelled.cancelled()
    await journal.append(usage(3))
    await journal.close()
    assert ids(all_records(journal.directory)) == {operation_id(n) for n in (1, 2, 3)}


async def test_a_new_segment_begins_with_the_open_operations(tmp_path):
    journal = await Journal.open(tmp_path, segment_bytes=2_000)
    for number in (1, 2, 3):
        await journal.append(intent(number))
    journal.append_soon(checkpoint(1, 10))
    journal.append_soon(checkpoint(2, 20))
    await journal.append(void(3))
    for number in range(100, 200):
        await journal.append(usage(number))
    journal.append_soon(checkpoint(1, 11))
    journal.append_soon(intent(2))  # written again after an attempt that failed
    for number in range(200, 300):
        await journal.append(usage(number))
    found = reader.segments(journal.directory)
    assert len(found) > 5
    assert [segment.sealed for segment in found] == [True] * (len(found) - 1) + [False]
    assert journal.statistics().segment == found[-1].number
    assert journal.statistics().open_operations == 2
    for segment in found[2:]:
        carried = list(reader.records_of(segment.path))[:4]
        assert [r.id for r in carried] == [operation_id(n) for n in (1, 1, 2, 2)]
        assert isinstance(carried[0], Intent)
    newest = list(reader.records_of(found[-1].path))
    assert newest[:4] == [intent(1), checkpoint(1, 11), intent(2), checkpoint(2, 20)]
    everything = all_records(journal.directory)
    assert recover(newest) == recover(everything)
    assert ids(everything) == {operation_id(n) for n in [1, 2, 3, *range(100, 300)]}
    await journal.close()


async def test_operations_that_fill_a_segment_do_not_make_every_batch_a_segment(tmp_path):
    journal = await Journal.open(tmp_path, segment_bytes=1_000)
    await asyncio.gather(*[journal.append(intent(n)) for n in range(100)])
    for number in range(1_000, 1_010):
        await journal.append(usage(number))
    assert journal.statistics().segment < 5
    await journal.close()


async def test_close_writes_what_is_queued_and_ends_the_journal(tmp_path):
    journal = await Journal.open(tmp_path)
    queued = [asyncio.create_task(journal.append(usage(n))) for n in range(10)]
    await asyncio.sleep(0)
    journal.append_soon(checkpoint(50, 1))
    await journal.close()
    await asyncio.gather(*queued)
    assert ids(all_records(journal.directory)) == {operation_id(n) for n in [*range(10), 50]}
    with pytest.raises(JournalError, match="closed"):
        await journal.append(usage(11))
    with pytest.raises(JournalError, match="closed"):
        journal.append_soon(checkpoint(11, 1))
    assert not journal.healthy
    await journal.close()


async def test_closing_answers_those_who_wait_for_room(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk, queue_bytes=1)
    disk.close_gate()
    first = asyncio.create_task(journal.append(usage(1)))
    await reached_disk(disk)
    waiting = asyncio.create_task(journal.append(usage(2)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    disk.gate.set()
    await closing
    await first
    with pytest.raises(JournalError, match="closed"):
        await waiting
    assert ids(all_records(journal.directory)) == {operation_id(1)}


async def test_folders_and_files_are_for_their_owner_only(tmp_path):
    journal = await Journal.open(tmp_path / "journal")
    await journal.append(usage(1))
    assert stat.S_IMODE(journal.directory.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(journal.directory.stat().st_mode) == 0o700
    files = list(journal.directory.iterdir())
    assert {file.name for file in files} == {"lock", "durable", "000001.seg"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await journal.close()


async def test_an_instance_is_written_once(tmp_path):
    journal = await Journal.open(tmp_path, instance="proxy-1")
    await journal.close()
    with pytest.raises(JournalError, match="written by one process, once"):
        await Journal.open(tmp_path, instance="proxy-1")


@pytest.mark.parametrize("name", ["", "../out", "UPPER", "-x", "a" * 64, ".hidden"])
async def test_an_unusable_name_is_refused(tmp_path, name):
    with pytest.raises(JournalError, match="name"):
        await Journal.open(tmp_path, instance=name)
    assert reader.list_instances(tmp_path) == []


@pytest.mark.parametrize("size", [0, -1, (1 << 30) + 1])
async def test_an_absurd_segment_size_is_refused(tmp_path, size):
    with pytest.raises(JournalError, match="segment"):
        await Journal.open(tmp_path, segment_bytes=size)


async def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    with pytest.raises(JournalError, match="no journal can be created"):
        await Journal.open(place)


async def test_a_record_that_cannot_be_encoded_is_refused_alone(tmp_path):
    journal = await Journal.open(tmp_path)
    unwritable = usage(1)
    unwritable.raw["total_tokens"] = 2**70
    with pytest.raises(JournalError, match="64 bits"):
        await journal.append(unwritable)
    await journal.append(usage(2))
    await journal.close()
    assert all_records(journal.directory) == [usage(2)]


async def test_a_crowd_gathers_and_a_lone_record_waits_for_nobody(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    before = disk.syncs
    await asyncio.gather(*(journal.append(usage(number)) for number in range(CROWD)))
    assert disk.syncs == before + 1
    late = [asyncio.create_task(journal.append(usage(number))) for number in range(10, 12)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # a turn of the loop in which a batch would have begun
    late.append(asyncio.create_task(journal.append(usage(12))))
    await asyncio.gather(*late)
    assert disk.syncs == before + 2
    assert journal.statistics().batches == 2
    assert not journal._crowded
    await journal.append(usage(13))
    assert disk.syncs == before + 3
    await journal.close()


async def test_enough_records_wait_for_no_more(tmp_path):
    disk = GatedDisk()
    journal = await Journal.open(tmp_path, disk=disk)
    await asyncio.gather(*(journal.append(usage(number)) for number in range(CROWD)))
    waiting = [asyncio.create_task(journal.append(usage(number))) for number in range(ENOUGH)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert journal._gathering is None
    await asyncio.gather(*waiting)
    await journal.close()


async def test_closing_waits_for_no_crowd(tmp_path):
    journal = await Journal.open(tmp_path)
    await asyncio.gather(*(journal.append(usage(number)) for number in range(CROWD)))
    journal.append_soon(usage(10))
    await journal.close()
    assert ids(all_records(journal.directory)) == {operation_id(n) for n in (*range(CROWD), 10)}
