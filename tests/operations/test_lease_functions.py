"""L6 for leases: what processes hold and draw together never exceeds a limit, whatever is lost."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.admission.amounts import PICO
from billing.admission.lease_book import LeaseBook, Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.ledger.hold import CREDIT
from billing.metering.event_id import microseconds
from billing.store import leases
from billing.store.database import Database, Role, only
from billing.store.leases import Renewal
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give
from tests.operations.lease_world import (
    LEASE_MS,
    LeasingProcess,
    draw,
    make_limit,
    require_leases_tie,
    standing,
)
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant("acme")


def proxy(world: World, name: str) -> LeasingProcess:
    return LeasingProcess(database=world.database, instance=name)


def credit_of(world: World, acme: Tenant, amount: str) -> Limit:
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, amount, key="c", now=world.now)
        row = only(connection, "SELECT id FROM spend_limit WHERE name = 'credit'")
    return Limit(
        id=row.id, name=CREDIT, unit=Unit.MONEY, window=Window.NONE, hard=True, shadow=False,
        capacity=0,
    )  # fmt: skip


def test_L6_processes_at_once_never_exceed_a_limit_and_use_95_percent(
    world: World, acme: Tenant
) -> None:
    limit = make_limit(world.database, acme, "budget", "100", now=world.now)

    def work(number: int) -> int:
        chance, used, refused = random.Random(number), 0, 0
        mine = proxy(world, f"p-{number}")
        while refused < 3:
            held = mine.admit([Wanted(limit=limit, amount=PICO)], world.now, chunk=16)
            if held is None:
                refused += 1
                mine.give_back(limit, world.now)
                continue
            ((lease, _),) = held.parts
            cost = chance.randint(PICO // 2, PICO)
            mine.book.release(held, {lease.id: cost})
            draw(world.database, {lease.id: cost}, world.now)
            used += cost
        return used

    with ThreadPoolExecutor(4) as pool:
        used = sum(pool.map(work, range(4)))
    assert 95 * PICO <= used <= 100 * PICO
    spent, leased, available = standing(world.database, limit, world.now)
    assert (spent, leased) == (Decimal(used) / PICO, 0)
    assert available == 100 - spent
    require_leases_tie(world.database)


def test_L6_all_limits_of_a_request_or_none(world: World, acme: Tenant) -> None:
    money = make_limit(world.database, acme, "budget", "1", now=world.now)
    requests = make_limit(world.database, acme, "calls", "1", now=world.now, unit=Unit.REQUESTS)
    mine = proxy(world, "p-1")
    both = [Wanted(limit=money, amount=PICO // 10), Wanted(limit=requests, amount=1)]
    assert mine.admit(both, world.now) is not None
    before = standing(world.database, money, world.now)
    (refusal,) = mine.ask(both, world.now)
    assert (refusal.limit_id, refusal.lease_id) == (requests.id, None)
    assert (refusal.used, refusal.capacity, refusal.elsewhere) == (1, 1, 0)
    assert standing(world.database, money, world.now) == before


def test_a_call_whose_answer_was_lost_is_repeated_without_a_double_lease(
    world: World, acme: Tenant
) -> None:
    limit = make_limit(world.database, acme, "calls", "100", now=world.now, unit=Unit.REQUESTS)
    mine = proxy(world, "p-1")
    ten = [Wanted(limit=limit, amount=10)]
    mine.ask(ten, world.now, lose_answer=True)
    assert standing(world.database, limit, world.now)[1] == 10
    mine.ask(ten, world.now)
    assert standing(world.database, limit, world.now)[1] == 10
    mine.ask([Wanted(limit=limit, amount=25)], world.now, lose_answer=True)
    assert standing(world.database, limit, world.now)[1] == 25
    assert mine.admit([Wanted(limit=limit, amount=30)], world.now) is not None
    assert standing(world.database, limit, world.now)[1] == 30
    require_leases_tie(world.database)


def test_a_call_that_arrives_after_a_later_one_changes_nothing(world: World, acme: Tenant) -> None:
    limit = make_limit(world.database, acme, "calls", "100", now=world.now, unit=Unit.REQUESTS)
    mine = proxy(world, "p-1")
    mine.ask([Wanted(limit=limit, amount=10)], world.now)
    mine.give_back(limit, world.now)
    assert mine.ask([Wanted(limit=limit, amount=50)], world.now, turn=1) == []
    assert standing(world.database, limit, world.now)[1] == 0


def test_what_was_returned_is_returned_whether_or_not_the_call_arrived(
    world: World, acme: Tenant
) -> None:
    limit = make_limit(world.database, acme, "calls", "100", now=world.now, unit=Unit.REQUESTS)
    mine = proxy(world, "p-1")
    mine.ask([Wanted(limit=limit, amount=40)], world.now)
    mine.give_back(limit, world.now, lost=True)
    assert standing(world.database, limit, world.now)[1] == 40
    # The process holds nothing by its own account: the database still has 40 for it.
    assert mine.admit([Wanted(limit=limit, amount=30)], world.now) is not None
    assert standing(world.database, limit, world.now)[1] == 40
    mine.give_back(limit, world.now)
    assert standing(world.database, limit, world.now)[1] == 30
    require_leases_tie(world.database)


def test_a_killed_process_gives_back_after_its_journal_is_drained(
    world: World, acme: Tenant
) -> None:
    limit = make_limit(world.database, acme, "calls", "100", now=world.now, unit=Unit.REQUESTS)
    dead, alive = proxy(world, "p-1"), proxy(world, "p-2")
    (leased,) = dead.ask([Wanted(limit=limit, amount=90)], world.now)
    assert leased.lease_id is not None
    assert alive.admit([Wanted(limit=limit, amount=20)], world.now) is None
    with world.database.transaction(Role.INGEST) as connection:
        leases.draw(connection, {leased.lease_id: 30}, now=world.now)
        leases.close(connection, "p-1")
    assert standing(world.database, limit, world.now) == (30, 0, 70)
    assert alive.admit([Wanted(limit=limit, amount=70)], world.now) is not None
    assert dead.renew(world.now, anew=True) is Renewal.GONE
    assert dead.ask([Wanted(limit=limit, amount=1)], world.now) == []


def test_a_lost_host_gives_back_at_its_end(world: World, acme: Tenant) -> None:
    limit = make_limit(world.database, acme, "calls", "100", now=world.now, unit=Unit.REQUESTS)
    lost, alive = proxy(world, "p-1"), proxy(world, "p-2")
    (leased,) = lost.ask([Wanted(limit=limit, amount=90)], world.now)
    assert leased.lease_id is not None
    end = world.now + timedelta(milliseconds=LEASE_MS)
    for at, freed in (
        (end - timedelta(milliseconds=1), []),
        (end, [("p-1", limit.id, Decimal(90))]),
        (end, []),
    ):
        with world.database.transaction(Role.OPERATOR) as connection:
            assert leases.sweep(connection, now=at) == freed
    assert alive.admit([Wanted(limit=limit, amount=95)], end) is not None
    # It was not lost after all: what it used counts, on top, and it leases anew.
    draw(world.database, {leased.lease_id: 30}, end)
    assert standing(world.database, limit, end) == (30, 95, -25)
    one = [Wanted(limit=limit, amount=1)]
    assert lost.ask(one, end) == []
    assert lost.renew(end) is Renewal.SWEPT
    lost.book = LeaseBook()
    assert lost.renew(end, anew=True) is Renewal.STANDS
    assert lost.admit(one, end) is None
    require_leases_tie(world.database)


def test_opposite_orders_do_not_deadlock(world: World, acme: Tenant) -> None:
    one = make_limit(world.database, acme, "one", "1000000", now=world.now, unit=Unit.TOKENS)
    two = make_limit(world.database, acme, "two", "1000000", now=world.now, unit=Unit.TOKENS)

    def work(number: int) -> None:
        mine = proxy(world, f"p-{number}")
        order = (one, two) if number % 2 else (two, one)
        wanted = [Wanted(limit=limit, amount=7) for limit in order]
        for _ in range(40):
            held = mine.admit(wanted, world.now)
            assert held is not None
            drawn = {lease.id: amount for lease, amount in held.parts}
            mine.book.release(held, drawn)
            draw(world.database, drawn, world.now)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert world.database.deadlocks == 0
    for limit in (one, two):
        assert standing(world.database, limit, world.now)[0] == 4 * 40 * 7


def test_an_edit_keeps_what_was_used(world: World, acme: Tenant) -> None:
    def limit(capacity: str, *, hard: bool = True) -> Limit:
        return make_limit(
            world.database, acme, "calls", capacity, now=world.now, unit=Unit.REQUESTS,
            span=Window.DAY, hard=hard,
        )  # fmt: skip

    before = limit("10")
    mine = proxy(world, "p-1")
    held = mine.admit([Wanted(limit=before, amount=4)], world.now)
    assert held is not None
    drawn = {lease.id: 4 for lease, _ in held.parts}
    mine.book.release(held, drawn)
    draw(world.database, drawn, world.now)
    after = limit("6", hard=False)
    assert after.id == before.id
    assert (after.capacity, after.hard) == (6, False)
    assert standing(world.database, after, world.now) == (4, 0, 2)
    limit("3")
    assert standing(world.database, after, world.now) == (4, 0, -1)
    (refusal,) = mine.ask([Wanted(limit=after, amount=1)], world.now)
    assert (refusal.used, refusal.capacity) == (4, 3)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


BERLIN, KATHMANDU = "Europe/Berlin", "Asia/Kathmandu"


@pytest.mark.parametrize(
    ("zone", "span", "at", "bounds"),
    [
        ("UTC", Window.MINUTE, "2026-11-15T12:00:59Z", "2026-11-15T12:00Z/2026-11-15T12:01Z"),
        # 23 and 25 hours
        (BERLIN, Window.DAY, "2026-03-29T09:00Z", "2026-03-28T23:00Z/2026-03-29T22:00Z"),
        (BERLIN, Window.DAY, "2026-10-25T09:00Z", "2026-10-24T22:00Z/2026-10-25T23:00Z"),
        (KATHMANDU, Window.DAY, "2026-11-15T18:15Z", "2026-11-15T18:15Z/2026-11-16T18:15Z"),
        (KATHMANDU, Window.DAY, "2026-11-15T18:14Z", "2026-11-14T18:15Z/2026-11-15T18:15Z"),
        ("UTC", Window.MONTH, "2028-02-29T23:59Z", "2028-02-01T00:00Z/2028-03-01T00:00Z"),
        (BERLIN, Window.MONTH, "2026-12-31T22:59Z", "2026-11-30T23:00Z/2026-12-31T23:00Z"),
        (BERLIN, Window.MONTH, "2026-12-31T23:00Z", "2026-12-31T23:00Z/2027-01-31T23:00Z"),
        (BERLIN, Window.WEEK, "2026-11-15T22:59Z", "2026-11-08T23:00Z/2026-11-15T23:00Z"),
        (BERLIN, Window.WEEK, "2026-11-15T23:00Z", "2026-11-15T23:00Z/2026-11-22T23:00Z"),
    ],
)  # fmt: skip
def test_window_edges(world: World, zone: str, span: Window, at: str, bounds: str) -> None:
    tenant = world.tenant("elsewhere", zone=zone)
    limit = make_limit(
        world.database, tenant, "calls", "10", now=world.now, unit=Unit.REQUESTS, span=span
    )
    now, first, after = (instant(text) for text in (at, *bounds.split("/")))
    assert limit.window_at(microseconds(now)) == (microseconds(first), microseconds(after))
    mine = proxy(world, "p-1")
    last = after - timedelta(microseconds=1)
    for moment in (now, last):
        held = mine.admit([Wanted(limit=limit, amount=5)], moment)
        assert held is not None
        drawn = {lease.id: 5 for lease, _ in held.parts}
        mine.book.release(held, drawn)
        draw(world.database, drawn, moment)
    assert mine.admit([Wanted(limit=limit, amount=1)], last) is None
    # The first instant of the next window: everything is there again.
    assert mine.admit([Wanted(limit=limit, amount=10)], after) is not None
    assert mine.admit([Wanted(limit=limit, amount=1)], after) is None
    # What comes late of the window before does not count in this one.
    draw(world.database, drawn, after)
    assert standing(world.database, limit, after) == (0, 10, 0)
    # A process whose clock is behind uses the window that the others are in.
    assert proxy(world, "p-2").admit([Wanted(limit=limit, amount=1)], last) is None
    require_leases_tie(world.database)


def test_L6_draws_on_credit_count_until_they_are_settled(world: World, acme: Tenant) -> None:
    limit = credit_of(world, acme, "10.00")
    mine = proxy(world, "p-1")
    held = mine.admit([Wanted(limit=limit, amount=4 * PICO)], world.now)
    assert held is not None
    ((lease, _),) = held.parts
    draw(world.database, {lease.id: 3 * PICO}, world.now)
    mine.book.release(held, {lease.id: 3 * PICO})
    mine.give_back(limit, world.now)
    assert standing(world.database, limit, world.now) == (3, 0, 7)
    minute = world.now.replace(second=0, microsecond=0)
    for through, settled in (
        (minute, 0),
        (minute + timedelta(seconds=59), 0),
        (minute + timedelta(minutes=1), 3),
        (minute + timedelta(minutes=2), 0),
    ):
        with world.database.transaction(Role.OPERATOR) as connection:
            row = only(
                connection, "SELECT settle_holds(:id, :at) AS settled", id=limit.id, at=through
            )
        assert row.settled == settled, through
    # A draw that comes after its minute was settled is settled with a later one.
    draw(world.database, {lease.id: PICO}, world.now)
    later = minute + timedelta(minutes=3)
    with world.database.transaction(Role.OPERATOR) as connection:
        row = only(connection, "SELECT settle_holds(:id, :at) AS settled", id=limit.id, at=later)
    assert row.settled == 1
    assert standing(world.database, limit, world.now)[0] == 0
