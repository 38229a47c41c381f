"""Processes that are killed: what they were told is kept, and who may take over."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from billing.errors import JournalError
from billing.journal import reader
from billing.journal.journal import Journal
from billing.journal.records import Usage, Void
from billing.journal.recovery import recover
from tests.journal.samples import all_records, usage

ROOT = Path(__file__).parents[2]
SEEDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 100))]


@contextmanager
def crash_writer(directory: Path, seed: int, output: Path):
    """A running writer and the instance it writes; killed in the end, if not before."""
    command = [sys.executable, "-m", "tests.journal.crash_writer", str(directory), str(seed)]
    with output.open("wb") as file, subprocess.Popen(command, stdout=file, cwd=ROOT) as process:
        try:
            while not output.read_bytes().startswith(b"READY") or b"\n" not in output.read_bytes():
                assert process.poll() is None
                time.sleep(0.01)
            yield process, Path(output.read_text().split("\n", 1)[0].removeprefix("READY "))
        finally:
            process.kill()
            process.wait()


class Told:
    """What a killed writer had printed: acknowledged facts, and tokens delivered."""

    def __init__(self, output: Path) -> None:
        self.intents: set[bytes] = set()
        self.usages: dict[bytes, int] = {}
        self.voids: set[bytes] = set()
        self.delivered: dict[bytes, int] = {}
        for line in output.read_text().split("\n")[1:-1]:
            match line.split():
                case ["I", name]:
                    self.intents.add(bytes.fromhex(name))
                case ["C", name, count]:
                    self.delivered[bytes.fromhex(name)] = int(count)
                case ["U", name, count]:
                    self.usages[bytes.fromhex(name)] = int(count)
                case ["V", name]:
                    self.voids.add(bytes.fromhex(name))
                case _:
                    raise AssertionError(line)


@pytest.mark.parametrize("seed", SEEDS)
def test_L5_kill_9_loses_no_acknowledged_record(tmp_path, seed):
    output = tmp_path / "told"
    with crash_writer(tmp_path / "journal", seed, output) as (process, instance_dir):
        time.sleep(random.Random(seed).uniform(0.05, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    told = Told(output)
    assert told.intents
    assert not reader.is_closed(instance_dir)
    lock = reader.try_adopt(instance_dir)
    assert lock is not None
    with lock:
        records = all_records(instance_dir)
        newest = list(reader.records_of(reader.segments(instance_dir)[-1].path))
    usages = [r for r in records if isinstance(r, Usage)]
    billed = {r.id: r.counts.output for r in usages}
    assert len(usages) == len(billed)
    assert told.usages.items() <= billed.items()
    assert told.voids <= {r.id for r in records if isinstance(r, Void)}
    recovered = recover(records)
    assert recover(newest) == recovered  # older segments may have been shipped and removed
    outcomes = {r.id for r in records if isinstance(r, Usage | Void)} | {r.id for r in recovered}
    assert told.intents <= outcomes
    for outcome in recovered:
        counts = outcome.counts.output if isinstance(outcome, Usage) else 0
        assert counts <= told.delivered.get(outcome.id, 0)


def test_only_a_dead_owner_is_adopted_and_only_by_one(tmp_path):
    output = tmp_path / "told"
    with crash_writer(tmp_path / "journal", 1, output) as (process, instance_dir):
        assert reader.list_instances(tmp_path / "journal") == [instance_dir]
        assert reader.try_adopt(instance_dir) is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    lock = reader.try_adopt(instance_dir)
    assert lock is not None
    adopting = (
        "import sys; from pathlib import Path; from billing.journal import reader;"
        "print(reader.try_adopt(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", adopting, str(instance_dir)]
    assert subprocess.check_output(command, cwd=ROOT) == b"None\n"
    lock.release()
    lock.release()
    assert subprocess.check_output(command, cwd=ROOT) != b"None\n"


def test_a_reader_follows_a_living_writer_without_a_gap(tmp_path):
    output = tmp_path / "told"
    seen: dict[bytes, int] = {}
    with crash_writer(tmp_path / "journal", 2, output) as (_, instance_dir):
        number, offset = 1, 0
        while number < 20:
            available = reader.segments(instance_dir)
            segment = next(s for s in available if s.number == number)
            records, offset, at_end = reader.read_from(segment.path, offset, 5_000)
            for record in records:
                if isinstance(record, Usage):
                    assert record.id not in seen
                    seen[record.id] = record.counts.output
            if at_end and segment.sealed:
                number, offset = number + 1, 0
        told = Told(output).usages
    found = reader.segments(instance_dir)
    followed = [record for segment in found[:19] for record in reader.records_of(segment.path)]
    assert seen == {r.id: r.counts.output for r in followed if isinstance(r, Usage)}
    assert told.keys() <= {r.id for s in found for r in reader.records_of(s.path)}
    assert len(seen) > 100


async def test_a_closed_journal_can_be_adopted_at_once(tmp_path):
    journal = await Journal.open(tmp_path)
    await journal.append(usage(1))
    assert reader.try_adopt(journal.directory) is None
    await journal.close()
    lock = reader.try_adopt(journal.directory)
    assert lock is not None
    lock.release()


async def test_a_folder_without_a_lock_is_not_judged(tmp_path):
    journal = await Journal.open(tmp_path)
    journal.directory.joinpath("lock").unlink()
    with pytest.raises(JournalError, match="no lock file"):
        reader.try_adopt(journal.directory)
    await journal.close()
    assert reader.try_adopt(tmp_path / "absent") is None
