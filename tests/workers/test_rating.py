"""Continuous rating: what changed is accrued, nothing else is read, no death loses a change."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.define_meter import define_meter
from billing.operations.rating.accrue_due import rating_lag
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store import accrual_queue, ledger
from billing.store.changed_periods import changed_periods
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import dying_everywhere
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report
from workers.rating import RatingTurn, accrue_changes, every

MINUTE = timedelta(minutes=1)
QUANTITY_MAX = 10**18
LEAST = """
slug: least
name: At least fifty
currency: USD
charges:
  - type: per_unit
    key: input
    description: Input tokens
    meter: tokens.input
    models: [tiny]
    price: "0.20"
    per: 1000000
    minimum: "50.00"
"""
SEATS = """
code: seats
unit: seats
event_type: seats
value: data.seats
aggregation: time_weighted_sum
"""
SEAT_HOURS = """
slug: seats
name: Seats
currency: USD
charges:
  - {type: per_unit, key: seats, description: Seat hours, meter: seats, price: "1.00"}
"""

LARGE = """
slug: large
name: Large
currency: USD
charges:
  - {type: per_unit, key: large, description: Large, meter: tokens.input, models: [large],
     price: "1", per: 1000000}
"""


def earned(database: Database, tenant: Tenant, at: datetime) -> dict[str, Decimal]:
    with database.transaction(Role.OPERATOR) as connection:
        rows = ledger.revenue(connection, period=tenant.billing_period(at))
    return {row.line_key: row.amount for row in rows if row.tenant == tenant.slug}


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def test_only_what_changed_is_rated(world: World) -> None:
    tenants = [world.tenant(slug) for slug in ("acme", "birch", "cedar")]
    # Bound this month: one billing period each.
    assert accrue_changes(world.database, now=world.now) == RatingTurn(rated=3, posted=3)
    assert accrue_changes(world.database, now=world.now + MINUTE) == RatingTurn()
    world.use(tenants[1], {"tokens.input": 1_000_000, "tokens.output": 5})
    assert accrue_changes(world.database, now=world.now + 2 * MINUTE) == RatingTurn(
        rated=1, posted=1
    )
    assert earned(world.database, tenants[1], world.now)["input"] == Decimal("0.2")
    with world.database.transaction(Role.OPERATOR) as connection:
        lag = rating_lag(connection, now=world.now + 2 * MINUTE)
    assert (lag.epochs, lag.waiting, lag.oldest_due_at, lag.problems) == (0, 0, None, {})
    assert (lag.periods, lag.failures) == (4, 0)


def test_R4_usage_that_changes_no_amount_posts_nothing(world: World) -> None:
    acme = world.tenant()
    accrue_changes(world.database, now=world.now)
    world.report(acme, usage_report(meter="requests", occurred_at=world.now, model=None))
    turn = accrue_changes(world.database, now=world.now + MINUTE)
    assert turn == RatingTurn(rated=1, posted=0)


def test_the_clock_alone_begins_fees_and_closes_minimums(world: World) -> None:
    world.plan(LEAST)
    fee, least = world.tenant("fee"), world.tenant("least", plan="least")
    accrue_changes(world.database, now=world.now)
    assert earned(world.database, least, world.now) == {}
    assert accrue_changes(world.database, now=MONTH_END - MINUTE) == RatingTurn()
    accrue_changes(world.database, now=MONTH_END)
    assert earned(world.database, least, world.now) == {"input:minimum": 50}
    for month in (world.now, MONTH_END):
        assert earned(world.database, fee, month) == {"platform": 20}
    # Two months asleep: each of them is made up for.
    later = MONTH_END + timedelta(days=70)
    accrue_changes(world.database, now=later)
    assert earned(world.database, least, MONTH_END + timedelta(days=40)) == {"input:minimum": 50}
    assert earned(world.database, fee, later) == {"platform": 20}


def test_late_usage_of_any_period_is_accrued_there(world: World) -> None:
    acme = world.tenant()
    later = replace(world, now=MONTH_END + timedelta(days=70))
    accrue_changes(world.database, now=later.now)
    later.use(acme, {"tokens.input": 1_000_000}, occurred_at=MONTH_START + timedelta(days=1))
    assert accrue_changes(world.database, now=later.now + MINUTE) == RatingTurn(rated=1, posted=1)
    assert earned(world.database, acme, MONTH_START)["input"] == Decimal("0.2")


def test_contracts_that_are_bound_backwards_or_end_are_rated_at_once(world: World) -> None:
    acme = world.tenant(plan=None)
    world.use(acme, {"tokens.input": 1_000_000})
    turn = accrue_changes(world.database, now=world.now)
    assert turn == RatingTurn()
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection,
            tenant="acme",
            plan="standard",
            valid_from=datetime(2026, 9, 1, tzinfo=UTC),
            now=world.now,
        )
    assert accrue_changes(world.database, now=world.now).posted == 3
    assert earned(world.database, acme, world.now) == {"platform": 20, "input": Decimal("0.2")}
    half = MONTH_START + timedelta(days=15)
    with world.database.transaction(Role.OPERATOR) as connection:
        (contract,) = list_contracts(connection, tenant_id=acme.id)
        end_contract(connection, contract.id, valid_until=half)
    assert accrue_changes(world.database, now=world.now).posted == 1
    assert earned(world.database, acme, world.now)["platform"] == 10
    # Nothing of it is left to the clock but its end.
    accrue_changes(world.database, now=half)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert accrual_queue.take_due(connection, [acme.id], now=MONTH_END) == []


def test_a_level_earns_while_nobody_uses_anything(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SEATS, now=MONTH_START)
    world.plan(SEAT_HOURS)
    acme = world.tenant(plan="seats")
    world.report(acme, usage_report(meter="seats", quantity=4, model=None, occurred_at=world.now))
    for hours in (1, 5):
        accrue_changes(world.database, now=world.now + timedelta(hours=hours))
        assert earned(world.database, acme, world.now) == {"seats": 4 * hours}
    accrue_changes(world.database, now=MONTH_END + timedelta(hours=2))
    assert earned(world.database, acme, MONTH_END) == {"seats": 8}


def test_unrated_usage_is_rated_again_when_something_could_price_it(world: World) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_000_000}, model="large")
    assert accrue_changes(world.database, now=world.now).rated == 1
    for hours in (1, 2, 5, 23):
        turn = accrue_changes(world.database, now=world.now + timedelta(hours=hours))
        assert turn == RatingTurn(), hours
    world.plan(LARGE)
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection, tenant="acme", plan="large", valid_from=MONTH_START, now=world.now
        )
    assert accrue_changes(world.database, now=world.now + timedelta(hours=23)).posted == 1
    assert earned(world.database, acme, world.now)["large"] == 1
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rating_lag(connection, now=world.now).problems == {}


@pytest.mark.parametrize(
    ("aggregation", "before", "after"),
    [
        ("time_weighted_sum", {"seats": 4 * 24 * 30}, {"seats": 4 * 24}),
        ("latest", {"seats": 4}, {"seats": 0}),
        ("percentile", {"seats": 4}, {"seats": 0}),
    ],
)
def test_a_late_reading_of_zero_is_accrued_and_corrected(
    world: World, aggregation: str, before: dict[str, int], after: dict[str, int]
) -> None:
    text = SEATS.replace("time_weighted_sum", aggregation)
    if aggregation == "percentile":
        text += "percentile: 50\n"
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, text, now=MONTH_START)
    world.plan(SEAT_HOURS)
    acme = world.tenant(plan="seats")
    world.report(acme, usage_report(meter="seats", quantity=4, model=None, occurred_at=MONTH_START))
    later = replace(world, now=MONTH_END + timedelta(days=40))
    accrue_changes(world.database, now=later.now)
    assert earned(world.database, acme, MONTH_START) == before
    with world.database.transaction(Role.OPERATOR) as connection:
        issue_invoice(
            connection, tenant=acme, period=acme.billing_period(MONTH_START), now=later.now
        )
        mark = MONTH_START + timedelta(days=1)
        assert changed_periods(connection, tenant_id=acme.id, before=later.now) == []
    report = usage_report(foreign_id="e-2", meter="seats", quantity=0, model=None, occurred_at=mark)
    later.report(acme, report)
    assert accrue_changes(world.database, now=later.now + MINUTE).posted >= 1
    assert earned(world.database, acme, MONTH_START) == after
    with world.database.transaction(Role.OPERATOR) as connection:
        changed = changed_periods(connection, tenant_id=acme.id, before=later.now)
    assert changed == [acme.billing_period(MONTH_START)]


def test_who_cannot_be_rated_is_told_and_tried_again(world: World) -> None:
    first, second = world.tenant("aaa"), world.tenant("bbb")
    for serial in ("1", "2"):
        report = usage_report(foreign_id=serial, quantity=QUANTITY_MAX, occurred_at=world.now)
        world.report(first, report)
    world.use(second, {"tokens.input": 1_000_000, "tokens.output": 7}, model="unpriced")
    assert accrue_changes(world.database, now=world.now) == RatingTurn(rated=1, posted=1, failed=1)
    assert earned(world.database, second, world.now) == {"platform": 20}
    for minutes, failed in ((0, 0), (1, 1), (2, 0), (3, 1)):
        turn = accrue_changes(world.database, now=world.now + minutes * MINUTE)
        assert turn == RatingTurn(failed=failed), minutes
    with world.database.transaction(Role.OPERATOR) as connection:
        lag = rating_lag(connection, now=world.now)
    assert lag.problems == {"amount_out_of_range": 1, "unrated_usage": 1}
    assert lag.failures == 3
    # New usage is tried at once.
    world.use(first, {"tokens.output": 1})
    assert accrue_changes(world.database, now=world.now + 4 * MINUTE).failed == 1


def test_L5_a_worker_that_dies_between_any_two_statements_loses_no_change(world: World) -> None:
    tenants = [world.tenant(slug) for slug in ("acme", "birch")]
    accrue_changes(world.database, now=world.now)
    for tenant in tenants:
        world.use(tenant, {"tokens.input": 1_234_567, "tokens.output": 2_000_001})
    turn = dying_everywhere(
        world.database.engine,
        lambda: accrue_changes(world.database, now=world.now + MINUTE),
    )
    assert turn.failed == 0
    for tenant in tenants:
        assert earned(world.database, tenant, world.now)["input"] == Decimal("0.2469134")
        with world.database.transaction(Role.OPERATOR) as connection:
            period = tenant.billing_period(world.now)
            assert accrue_usage(connection, tenant=tenant, period=period, now=world.now) == 0
    with world.database.transaction(Role.OPERATOR) as connection:
        assert rating_lag(connection, now=world.now + MINUTE).waiting == 0
    assert accrue_changes(world.database, now=world.now + 2 * MINUTE) == RatingTurn()


@pytest.mark.parametrize(
    ("seconds", "cron"), [(15, "* * * * * */15"), (60, "*/1 * * * *"), (900, "*/15 * * * *")]
)
def test_turns_come_as_often_as_the_setting_says(seconds: int, cron: str) -> None:
    assert every(seconds) == cron
