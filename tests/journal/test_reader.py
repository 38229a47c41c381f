"""Folders as the ledger writer sees them: listing, marks, pruning."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing.journal import instance, reader
from billing.journal.journal import Journal
from tests.journal.samples import all_records, usage

NOW = datetime(2030, 1, 10, 12, tzinfo=UTC)


async def journal_of_segments(directory) -> Journal:
    journal = await Journal.open(directory, segment_bytes=100)
    for number in range(4):
        await journal.append(usage(number))
    assert [segment.number for segment in reader.segments(journal.directory)] == [1, 2, 3, 4]
    return journal


def last_written(journal: Journal, number: int, at: datetime) -> None:
    seconds = int(at.timestamp())
    os.utime(instance.segment_path(journal.directory, number), (seconds, seconds))


def numbers(journal: Journal) -> list[int]:
    return [segment.number for segment in reader.segments(journal.directory)]


async def test_instances_are_listed_oldest_first_and_unborn_ones_are_not(tmp_path):
    assert reader.list_instances(tmp_path / "absent") == []
    clock = iter(range(1_700_000_000_000_000, 1_700_000_000_001_000))
    journals = [await Journal.open(tmp_path, clock=lambda: next(clock)) for _ in range(3)]
    (tmp_path / ".new-half").mkdir()
    (tmp_path / "a-file").write_text("")
    (tmp_path / "lost+found").mkdir()
    (journals[0].directory / "000001.damaged.seg").write_text("")
    assert numbers(journals[0]) == [1]
    assert reader.list_instances(tmp_path) == [journal.directory for journal in journals]
    for journal in journals:
        await journal.close()


async def test_a_missing_or_half_written_mark_shows_nothing_until_the_owner_is_gone(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    mark = journal.directory / "durable"
    whole = mark.read_bytes()
    for content in (b"", whole[:8], whole[:8] + bytes(8), bytes(16)):
        mark.write_bytes(content)
        assert all_records(journal.directory) == []
    mark.unlink()
    assert all_records(journal.directory) == []
    await journal.close()
    assert all_records(journal.directory) == [usage(1)]


async def test_a_sealed_segment_is_read_whole_whatever_the_mark_says(tmp_path):
    journal = await journal_of_segments(tmp_path)
    (journal.directory / "durable").write_bytes(b"")
    assert all_records(journal.directory) == [usage(0), usage(1), usage(2)]
    await journal.close()


def test_adopting_shows_what_a_lost_mark_hid(tmp_path):
    writer = (
        "import asyncio, os, sys; from pathlib import Path;"
        "from billing.journal.journal import Journal; from tests.journal.samples import usage\n"
        "async def main():\n"
        "    journal = await Journal.open(Path(sys.argv[1]))\n"
        "    await journal.append(usage(1))\n"
        "    os._exit(0)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", writer, str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    (instance_dir,) = reader.list_instances(tmp_path)
    (instance_dir / "durable").unlink()
    assert all_records(instance_dir) == []
    lock = reader.try_adopt(instance_dir)
    assert lock is not None
    with lock:
        assert all_records(instance_dir) == [usage(1)]


async def test_shipped_segments_are_kept_for_their_time_then_removed(tmp_path):
    journal = await journal_of_segments(tmp_path)
    keep = timedelta(milliseconds=reader.KEEP_MS)
    assert keep == timedelta(hours=72)
    for number in (1, 2, 3, 4):
        last_written(journal, number, NOW - keep)
    last_written(journal, 2, NOW - keep + timedelta(seconds=1))
    assert reader.prune(journal.directory, 0, NOW) == []
    assert reader.prune(journal.directory, 4, NOW) == [instance.segment_path(journal.directory, 1)]
    assert numbers(journal) == [2, 3, 4]
    reader.prune(journal.directory, 4, NOW + timedelta(seconds=1))
    assert numbers(journal) == [4]  # its owner still writes it
    await journal.append(usage(9))
    await journal.close()


async def test_an_instance_disappears_with_its_last_segment(tmp_path):
    journal = await journal_of_segments(tmp_path)
    await journal.close()
    newest = numbers(journal)[-1]
    journal.directory.joinpath("000099.tmp").write_bytes(b"left over by a crash")
    later = datetime.now(UTC) + timedelta(days=4)
    reader.prune(journal.directory, newest - 1, later)
    assert numbers(journal) == [newest]
    reader.prune(journal.directory, newest, later)
    assert reader.list_instances(tmp_path) == []
    assert not reader.is_closed(journal.directory)


@pytest.mark.parametrize("cut", [1, 5, 20])
async def test_a_torn_trailer_is_no_trailer(tmp_path, cut):
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    await journal.close()
    path = reader.segments(journal.directory)[-1].path
    assert reader.is_closed(journal.directory)
    path.write_bytes(path.read_bytes()[:-cut])
    assert not reader.is_closed(journal.directory)
    assert all_records(journal.directory) == [usage(1)]


def test_what_a_start_that_was_killed_leaves_is_swept_once_it_is_old(tmp_path):
    command = [sys.executable, "-m", "tests.journal.half_born", str(tmp_path)]
    later = datetime.now(UTC) + timedelta(hours=1)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (unborn,) = tmp_path.iterdir()
        assert reader.list_instances(tmp_path) == []
        assert reader.sweep_unborn(tmp_path, later) == 0  # its owner lives
        process.kill()
    assert reader.sweep_unborn(tmp_path, later - timedelta(hours=2)) == 0  # it is young
    assert unborn.exists()
    assert reader.sweep_unborn(tmp_path, later) == 1
    assert list(tmp_path.iterdir()) == []


async def test_a_sweep_leaves_journals_alone(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    assert reader.sweep_unborn(tmp_path, datetime.now(UTC) + timedelta(days=1)) == 0
    await journal.close()
    assert reader.sweep_unborn(tmp_path, datetime.now(UTC) + timedelta(days=1)) == 0
    assert all_records(journal.directory) == [usage(1)]
    assert reader.sweep_unborn(tmp_path / "absent", NOW) == 0
