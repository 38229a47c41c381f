"""What journals say was drawn reaches the limits once, whoever dies between whatever (L5, L6)."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from billing.admission.amounts import PICO
from billing.admission.lease_book import Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.journal.reader import list_instances
from billing.journal.records import UNBILLED, Attribution, Draw, Usage, Void, of_limit
from billing.ledger.hold import CREDIT
from billing.operations.holds.holds import require_limit
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.restore.replay_journal import replay_journals
from billing.store.database import Database, Role
from billing.store.usage.parked import unshipped
from billing.tenancy.tenant import Tenant
from tests.credits.grants import require_ties
from tests.operations.crash_points import (
    Crash,
    attribution_of,
    crash_before,
    usage_record,
    write_journal,
)
from tests.operations.lease_world import (
    LeasingProcess,
    make_limit,
    require_leases_tie,
    standing,
)
from tests.operations.test_lease_functions import credit_of
from tests.operations.test_ship_journal import killed_proxy
from tests.world import World, make_world
from workers.lease_sweep import free_lost_leases
from workers.rating import accrue_changes


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant()


@pytest.fixture
def whose(world: World, acme: Tenant) -> Attribution:
    return attribution_of(world, acme)


def leased(world: World, limit: Limit, amount: int, instance: str) -> int:
    """A lease that a process has been granted; its id."""
    mine = LeasingProcess(database=world.database, instance=instance)
    (row,) = mine.ask([Wanted(limit=limit, amount=amount)], world.now)
    assert row.lease_id is not None
    return row.lease_id


def ship(world: World, directory: Path) -> None:
    JournalShipper(database=world.database, directory=directory).ship(now=world.now)


def test_L5_kill_between_read_and_commit_draws_once(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = make_limit(world.database, acme, "tokens", "1000", now=world.now, unit=Unit.TOKENS)
    lease = leased(world, limit, 500, "proxy-1")
    records = [
        msgspec.structs.replace(
            usage_record(world, whose, number), draws=(Draw.of(lease, 10 + number),)
        )
        for number in range(8)
    ]
    folder = write_journal(tmp_path, records)
    number = 0
    while True:
        number += 1
        with suppress(Crash), crash_before(world.database.engine, number):
            ship(world, tmp_path)
            break
        assert standing(world.database, limit, world.now)[0] in (0, 108)
        require_leases_tie(world.database)
    assert number > 5
    ship(world, tmp_path)
    assert standing(world.database, limit, world.now)[0] == 108
    assert folder.exists()


def test_a_drained_journal_ends_the_leases_of_its_process(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = make_limit(world.database, acme, "tokens", "1000", now=world.now, unit=Unit.TOKENS)
    lease = None

    def record(instance: str) -> None:
        nonlocal lease
        lease = leased(world, limit, 900, instance)

    (tmp_path / "journal").mkdir()
    folder = write_journal(tmp_path / "journal", [])
    record(folder.name)
    assert lease is not None
    drew = msgspec.structs.replace(usage_record(world, whose, 1), draws=(Draw.of(lease, 40),))
    killed_proxy(tmp_path / "other", [drew])
    ship(world, tmp_path / "other")
    assert standing(world.database, limit, world.now) == (40, 860, 100)
    ship(world, tmp_path / "journal")
    assert standing(world.database, limit, world.now) == (40, 0, 960)
    require_leases_tie(world.database)
    assert free_lost_leases(world.database, now=world.now + timedelta(hours=1)) == 0


def test_balance_equals_ledger(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    """Credit less what was drawn = credit less what grants paid, once all of it is accrued."""
    limit = credit_of(world, acme, "10.00")
    lease = leased(world, limit, 5 * PICO, "proxy-1")
    # tests.world.PLAN: a million output tokens cost 0.80 of the credit.
    usage = msgspec.structs.replace(
        usage_record(world, whose, 1, output=1_000_000),
        at_us=usage_record(world, whose, 1).at_us,
    )
    cost = Decimal("0.8000021")  # and ten of input, two of cached input
    drew = msgspec.structs.replace(usage, draws=(Draw.of(lease, int(cost * PICO)),))
    write_journal(tmp_path, [drew])
    ship(world, tmp_path)

    def left(at: datetime) -> Decimal:
        with world.database.transaction(Role.OPERATOR) as connection:
            found = require_limit(connection, tenant=acme, name=CREDIT, currency_code="USD", now=at)
            require_ties(connection, acme)
        return found.available

    # Whether it is leased or drawn: it is not free.
    assert (left(world.now), paid(world)) == (5, 0)
    assert standing(world.database, limit, world.now)[:2] == (cost, 5 - cost)
    accrue_changes(world.database, now=world.now + timedelta(seconds=30))
    # Paid by the grant, and still counted as drawn: too little is free for a minute, never more.
    fees = paid(world) - cost
    assert left(world.now) == 5 - fees - cost
    for minutes in (2, 3):
        accrue_changes(world.database, now=world.now + timedelta(minutes=minutes))
        assert left(world.now) == 5 - fees
    assert standing(world.database, limit, world.now)[:2] == (0, 5 - cost)


def paid(world: World) -> Decimal:
    """What grants have paid."""
    with world.database.transaction(Role.OPERATOR) as connection:
        return connection.execute(sa.text("SELECT sum(used) FROM credit_balance")).scalar_one()


def test_restart_of_n_processes_leaves_balances(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = make_limit(world.database, acme, "tokens", "1000", now=world.now, unit=Unit.TOKENS)
    credit = credit_of(world, acme, "10.00")
    for number, (each, amount) in enumerate(((limit, 40), (credit, PICO))):
        lease = leased(world, each, amount, f"proxy-{number}")
        used = msgspec.structs.replace(
            usage_record(world, whose, number), draws=(Draw.of(lease, amount),)
        )
        killed_proxy(tmp_path / "used" / str(number), [used])
        ship(world, tmp_path / "used" / str(number))
    before = [standing(world.database, each, world.now) for each in (limit, credit)]
    assert [spent for spent, _, _ in before] == [40, 1]
    for generation in range(5):
        for number in range(4):
            folder = write_journal(tmp_path / "restarted", [])
            leased(world, limit, 50 + generation * number, folder.name)
        assert standing(world.database, limit, world.now)[1] > 0
        ship(world, tmp_path / "restarted")
        after = [standing(world.database, each, world.now) for each in (limit, credit)]
        assert after == before
        require_leases_tie(world.database)


def unasked(world: World, whose: Attribution, limit: Limit, amount: int, number: int) -> Usage:
    """An event of a request that was admitted while limits could not be asked."""
    return msgspec.structs.replace(
        usage_record(world, whose, number), draws=(Draw.of(of_limit(limit.id), amount),)
    )


def test_L5_what_was_admitted_unasked_counts_once_in_its_limit(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    budget = make_limit(world.database, acme, "budget", "10", now=world.now, span=Window.MONTH)
    leased(world, budget, 4 * PICO, "proxy-1")
    records = [unasked(world, whose, budget, PICO, number) for number in range(8)]
    write_journal(tmp_path, records)
    number = 0
    while True:
        number += 1
        with suppress(Crash), crash_before(world.database.engine, number):
            ship(world, tmp_path)
            break
        assert standing(world.database, budget, world.now)[0] in (0, 8)
    ship(world, tmp_path)
    # By what was exposed the limit is exceeded, and nothing more is admitted until it resets.
    assert standing(world.database, budget, world.now) == (8, 4, -2)
    mine = LeasingProcess(database=world.database, instance="proxy-2")
    assert mine.admit([Wanted(limit=budget, amount=1)], world.now) is None
    require_leases_tie(world.database)


def test_what_was_admitted_unasked_counts_in_the_window_in_which_it_ended(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = make_limit(
        world.database, acme, "rpm", "10", now=world.now, unit=Unit.REQUESTS, span=Window.MINUTE
    )
    other = make_limit(world.database, acme, "tokens", "90", now=world.now, unit=Unit.TOKENS)
    leased(world, limit, 5, "proxy-1")
    first = usage_record(world, whose, 1).at_us
    minute = 60_000_000
    records = [
        msgspec.structs.replace(
            usage_record(world, whose, number),
            at_us=at_us,
            draws=(Draw.of(of_limit(limit.id), 1), Draw.of(of_limit(other.id), 7)),
        )
        for number, at_us in enumerate(
            (first - minute, first, first + minute, first + minute, first + 2 * minute), start=1
        )
    ]
    write_journal(tmp_path, records[:2])
    ship(world, tmp_path)
    assert standing(world.database, limit, world.now)[:2] == (1, 5)
    write_journal(tmp_path, records[2:4])
    ship(world, tmp_path)
    # The later minute has begun with them: leases of the one before are over.
    assert standing(world.database, limit, world.now + timedelta(minutes=1)) == (2, 0, 8)
    write_journal(tmp_path, records[4:])
    ship(world, tmp_path)
    assert standing(world.database, limit, world.now + timedelta(minutes=2)) == (1, 0, 9)
    assert standing(world.database, other, world.now)[0] == 35


def test_credit_that_was_drawn_unasked_is_settled_like_any_other(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = credit_of(world, acme, "10.00")
    write_journal(tmp_path, [unasked(world, whose, limit, 3 * PICO, 1)])
    ship(world, tmp_path)
    assert standing(world.database, limit, world.now) == (3, 0, 7)
    for minutes in (1, 3):
        accrue_changes(world.database, now=world.now + timedelta(minutes=minutes))
    assert standing(world.database, limit, world.now)[0] == 0


def test_L5_an_answer_without_an_event_counts_once(
    world: World, acme: Tenant, whose: Attribution, tmp_path: Path
) -> None:
    limit = make_limit(world.database, acme, "rpd", "100", now=world.now, unit=Unit.REQUESTS)
    lease = leased(world, limit, 50, "proxy-1")
    voids = [
        Void(
            id=usage_record(world, whose, number).id,
            at_us=usage_record(world, whose, number).at_us,
            attribution=whose,
            reason=UNBILLED,
            draws=(Draw.of(lease, 1),),
        )
        for number in range(1, 6)
    ]
    write_journal(tmp_path, [*voids, usage_record(world, whose, 9)])
    shipper = JournalShipper(database=world.database, directory=tmp_path)
    number = 0
    while True:
        number += 1
        with suppress(Crash), crash_before(world.database.engine, number):
            shipper.ship(now=world.now)
            break
        assert standing(world.database, limit, world.now)[0] in (0, 5)
    assert standing(world.database, limit, world.now)[0] == 5
    # A commit whose answer was lost is tried again by a shipper that does not know of it.
    late = JournalShipper(database=world.database, directory=tmp_path)
    late._cursors = {folder.name: unshipped(folder.name) for folder in list_instances(tmp_path)}
    for _ in range(2):
        late.ship(now=world.now)
        assert standing(world.database, limit, world.now)[0] == 5
    assert late._cursors == shipper._cursors
    # It costs nothing, so it is no scrap; and a replay knows what has no event from nothing.
    with world.database.transaction(Role.OPERATOR) as connection:
        scrap = connection.execute(sa.text("SELECT count(*) FROM scrap_attempt")).scalar_one()
    assert scrap == 0
    replay_journals(world.database, tmp_path, since=None, now=world.now)
    assert standing(world.database, limit, world.now)[0] == 5
