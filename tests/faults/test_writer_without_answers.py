"""A writer whose statements get no answer (L5): whether a page is in, it looks up.

The server's process stands still after each statement of a page in turn, the last one included, so
that the commit is on its way and carried out when the process goes on. Until then the journal has
grown: what the same writer reads next is a longer page, which begins with the same records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.exc import SQLAlchemyError

from billing.admission.lease_book import Wanted
from billing.admission.limit import Limit, Unit
from billing.journal.journal import Journal
from billing.journal.records import UNBILLED, Attribution, Draw, Record, Void
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role, only
from tests.operations.crash_points import attribution_of, usage_record
from tests.operations.lease_world import (
    LeasingProcess,
    make_limit,
    require_leases_tie,
    standing,
)
from tests.standing_still import go_on, stopped_at
from tests.world import World, make_world

HALF = 4
"""Records that are there when the answer stays away, and as many that come while it does."""

ANSWER_MS = 150


@pytest.fixture
def world(database: Database, now) -> World:
    return make_world(database, now)


@pytest.fixture
def impatient(database: Database) -> Generator[Database]:
    """The same database, for who does not wait long."""
    url = database.engine.url.render_as_string(hide_password=False)
    hasty = Database(url, pool_size=3, answer_ms=ANSWER_MS)
    yield hasty
    hasty.close()


def records(world: World, whose: Attribution, lease: int, first: int) -> Sequence[Record]:
    """As many that are billed as that only count as requests; each draws one."""
    drawn = (Draw.of(lease, 1),)
    made: list[Record] = []
    for number in range(first, first + 2 * HALF):
        usage = usage_record(world, whose, number)
        made.append(
            msgspec.structs.replace(usage, draws=drawn)
            if number % 2
            else Void(usage.id, usage.at_us, whose, UNBILLED, draws=drawn)
        )
    return made


def lease_of(world: World, limit: Limit, number: int) -> int:
    mine = LeasingProcess(database=world.database, instance=f"proxy-{number}")
    (row,) = mine.ask([Wanted(limit=limit, amount=2 * HALF)], world.now)
    assert row.lease_id is not None
    return row.lease_id


async def append(journal: Journal, some: Sequence[Record]) -> None:
    await asyncio.gather(*(journal.append(record) for record in some))


async def until_it_waits(database: Database, task: asyncio.Task[bool]) -> None:
    """Until a task is done, or waits for a lock of what stands still."""
    while not task.done():
        with database.transaction(Role.OPERATOR) as connection:
            # A role does not see what another's process waits for in pg_stat_activity.
            waiting = only(connection, "SELECT count(*) AS n FROM pg_locks WHERE NOT granted")
        if waiting.n:
            return
        await asyncio.sleep(0)


def ship(shipper: JournalShipper, world: World) -> bool:
    """Whether a pass came to its end."""
    with suppress(SQLAlchemyError):
        shipper.ship(now=world.now)
        return True
    return False


async def one_round(
    world: World, impatient: Database, made: Sequence[Record], folder: Path, number: int
) -> bool:
    """Ship with the server standing still behind statement `number`; False if there is none."""
    shipper = JournalShipper(database=impatient, directory=folder)
    journal = await Journal.open(folder)
    await append(journal, made[:HALF])
    with stopped_at(impatient.engine, number) as stopped:
        ended = await asyncio.to_thread(ship, shipper, world)
        reached = bool(stopped)
        assert not (reached and ended)
        await append(journal, made[HALF:])
        shipper.database = world.database
        again = asyncio.create_task(asyncio.to_thread(ship, shipper, world))
        await until_it_waits(world.database, again)
        go_on(stopped)
        assert await again
    await journal.close()
    assert await asyncio.to_thread(ship, shipper, world)
    return reached


async def test_L5_what_was_committed_unheard_counts_once(
    world: World, impatient: Database, tmp_path: Path
) -> None:
    acme = world.tenant("acme")
    limit = make_limit(world.database, acme, "calls", "100000", now=world.now, unit=Unit.REQUESTS)
    whose = attribution_of(world, acme)
    reached = 0
    for number in count(1):
        made = records(world, whose, lease_of(world, limit, number), number << 8)
        found = await one_round(world, impatient, made, tmp_path / str(number), number)
        with world.database.transaction(Role.OPERATOR) as connection:
            events = only(connection, "SELECT count(*) AS n FROM usage_event").n
        assert (number, events) == (number, number * HALF)
        used = standing(world.database, limit, world.now)[0]
        assert (number, used) == (number, number * 2 * HALF)
        if not found:
            break
        reached = number
    assert reached > 10
    require_leases_tie(world.database)
