"""The writer dies between any two statements of a page that brings all that a page can bring (L5).

Usage with draws on a lease, failed attempts and what was counted beside tokens; attempts that
bill nothing; a stream that nobody ended. A new writer reads the journal again. Whatever the
statement was, and if the commit happened and nobody heard of it, every table has grown by what one
undisturbed run adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec
import psycopg
import pytest
from psycopg import sql

from billing.admission.lease_book import Wanted
from billing.admission.limit import Limit, Unit
from billing.journal.records import Attempted, Attribution, Draw, Record
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from billing.store.usage.verify import rollup_differences
from tests.operations.crash_points import (
    Crash,
    attribution_of,
    checkpoint_record,
    crash_before,
    intent_record,
    usage_record,
    void_record,
    write_journal,
)
from tests.operations.lease_world import (
    LeasingProcess,
    make_limit,
    require_leases_tie,
    standing,
)
from tests.world import World, make_world

USAGES = 5
DRAWN = 7
EVENTS = USAGES + 1  # and the stream that is recovered
FAILED = 0 + 1 + 2 + 0 + 1 + 2  # of the usages, and of the void


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def records_of_round(world: World, whose: Attribution, lease: int, number: int) -> Sequence[Record]:
    """A journal's worth of everything."""
    first = number << 8
    drawn = (Draw.of(lease, DRAWN),)
    failed = (
        Attempted(0, whose.model_id, "pool-b", 1, 2, "timeout"),
        Attempted(1, whose.model_id, "pool-c", 3, 4, "refused"),
    )
    usages = [
        msgspec.structs.replace(
            usage_record(world, whose, first + n),
            draws=drawn,
            attempts=failed[: n % 3],
            units={"images": n} if n else {},
        )
        for n in range(USAGES)
    ]
    checkpoint = msgspec.structs.replace(
        checkpoint_record(world, first + USAGES, output=2), draws=drawn
    )
    void = msgspec.structs.replace(void_record(world, whose, first + USAGES + 1), attempts=failed)
    return [intent_record(world, whose, first + USAGES), checkpoint, *usages, void]


def table_sizes(owner: psycopg.Connection[tuple[str]]) -> dict[str, int]:
    """Rows of every table, partitions under their parents."""
    names = owner.execute(
        "SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    ).fetchall()
    counted: dict[str, int] = {}
    for (name,) in names:
        rows = owner.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))
        counted[name] = int(rows.fetchall()[0][0])
    return counted


def lease_of(world: World, limit: Limit, number: int) -> int:
    mine = LeasingProcess(database=world.database, instance=f"proxy-{number}")
    (row,) = mine.ask([Wanted(limit=limit, amount=DRAWN * EVENTS)], world.now)
    assert row.lease_id is not None
    return row.lease_id


def test_L5_nothing_is_lost_or_doubled_at_any_statement(
    world: World, postgres, database_name: str, tmp_path: Path
) -> None:
    acme = world.tenant()
    limit = make_limit(world.database, acme, "tokens", "100000", now=world.now, unit=Unit.TOKENS)
    whose = attribution_of(world, acme)
    engine = world.database.engine

    def grown(number: int, crash_at: int | None) -> tuple[dict[str, int], int]:
        """One journal, shipped by a writer that dies there: new rows by table, statements."""
        folder = tmp_path / str(number)
        records = records_of_round(world, whose, lease_of(world, limit, number), number)
        write_journal(folder, records, segment_bytes=900)
        before = table_sizes(owner)
        with suppress(Crash), crash_before(engine, crash_at) as statements:
            JournalShipper(database=world.database, directory=folder).ship(now=world.now)
        JournalShipper(database=world.database, directory=folder).ship(now=world.now)
        after = table_sizes(owner)
        return {name: after[name] - before[name] for name in after}, statements.sent

    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        grown(0, None)  # names of backends, shapes and meter sets are learned once
        expected, sent = grown(1, None)
        assert expected["usage_event"] == EVENTS
        assert expected["scrap_attempt"] == 1
        assert expected["usage_attempt"] == FAILED
        assert sent > 15
        for number in range(1, sent + 1):
            assert grown(number + 1, number)[0] == expected, f"crash before statement {number}"
    rounds = sent + 2
    assert standing(world.database, limit, world.now)[0] == rounds * EVENTS * DRAWN
    require_leases_tie(world.database)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rollup_differences(connection) == []
