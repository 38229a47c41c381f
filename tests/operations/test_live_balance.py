"""Live balances and forecasts: what an invoice of this moment would say, and what is to come."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.errors import NotFound
from billing.metering.usage_event import EventKind
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.metering.define_meter import define_meter
from billing.operations.rating.forecast_spend import require_forecast
from billing.operations.rating.live_balance import LiveBalance, live_balance, rate_running
from billing.rating.forecast import Method
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give
from tests.workers.test_rating import LEAST, SEAT_HOURS, SEATS
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

HOURLY = """
slug: hourly
name: By the clock
currency: USD
windows:
  night: {from: "00:00", to: "06:00"}
charges:
  - type: per_unit
    key: night
    description: At night
    meter: tokens.input
    models: [tiny]
    during: night
    price: "1.00"
    per: 1000000
"""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def balance(world: World, tenant: Tenant) -> LiveBalance:
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        return live_balance(connection, tenant=tenant, now=world.now)


def range_of(found: LiveBalance) -> tuple[int, int, int]:
    assert found.forecast is not None
    return (found.forecast.low_minor, found.forecast.likely_minor, found.forecast.high_minor)


def test_a_steady_fortnight_forecasts_the_month_through_its_tiers(world: World) -> None:
    acme = world.tenant()
    for day in range(14):
        at = MONTH_START + timedelta(days=day, hours=9)
        world.use(acme, {"tokens.output": 1_000_000}, occurred_at=at)
    world.use(acme, {"tokens.output": 500_000})
    found = balance(world, acme)
    # 20.00, a million at 0.80, thirteen and a half at 0.60.
    assert (found.rated, found.rated_minor) == (Decimal("28.9"), 2890)
    assert (found.invoiced_minor, found.unbilled, found.credit_left) == (0, Decimal("28.9"), None)
    assert (found.newest_usage_at, found.unrated, found.watermark) == (world.now, (), 15)
    assert found.forecast is not None
    assert (found.forecast.method, found.forecast.complete_days) == (Method.WEEKDAYS, 14)
    # Thirty millions in the end: 20 + 0.80 + 29 x 0.60, whatever half of the days is looked at.
    assert range_of(found) == (3820, 3820, 3820)


def test_minimums_and_fees_are_in_a_forecast_before_anything_is_used(world: World) -> None:
    world.plan(LEAST)
    least, nobody = world.tenant("least", plan="least"), world.tenant("nobody", plan=None)
    assert range_of(balance(world, least)) == (5000, 5000, 5000)
    empty = balance(world, nobody)
    assert (empty.currency, empty.rated, empty.forecast) == (None, 0, None)
    with world.database.transaction(Role.OPERATOR) as connection:
        rated = rate_running(connection, tenant=nobody, now=world.now)
        with pytest.raises(NotFound) as refused:
            require_forecast(connection, rated, now=world.now)
    assert refused.value.remedy


def test_a_level_and_a_first_day_go_on_as_they_began(world: World) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        define_meter(connection, SEATS, now=MONTH_START)
    world.plan(SEAT_HOURS)
    seats, fresh = world.tenant("seats", plan="seats"), world.tenant("fresh")
    world.report(
        seats, usage_report(meter="seats", quantity=2, model=None, occurred_at=MONTH_START)
    )
    # 14.5 of 30 days, two seats: 696.00 by now, 1,440 seat hours in the end.
    assert range_of(balance(world, seats)) == (144_000, 144_000, 144_000)
    early = replace(world, now=MONTH_START + timedelta(hours=6))
    early.use(fresh, {"tokens.input": 1_000_000})
    found = balance(early, fresh)
    assert found.forecast is not None
    assert found.forecast.method is Method.ELAPSED
    # A quarter of a day is a 120th of the month: 20 + 120 x 0.20.
    assert range_of(found) == (4400, 4400, 4400)


def test_what_was_invoiced_and_what_is_left_of_credit(world: World) -> None:
    acme = world.tenant()
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "7.50", key="k", now=world.now)
    assert balance(world, acme).credit_left == Decimal("7.5")
    world.use(acme, {"tokens.input": 1_000_000})
    world.report(acme, usage_report(foreign_id="x", model="unpriced", occurred_at=world.now))
    found = balance(world, acme)
    assert [(row.model, row.quantity) for row in found.unrated] == [("unpriced", 1)]
    other = world.tenant("other")
    world.use(other, {"tokens.input": 1_000_000})
    late = replace(world, now=MONTH_END - timedelta(minutes=1))
    with world.database.transaction(Role.OPERATOR) as connection:
        issue_invoice(
            connection, tenant=other, period=other.billing_period(world.now), now=MONTH_END
        )
    assert balance(late, other).invoiced_minor == 2020
    assert balance(late, other).unbilled == 0


def test_usage_that_is_not_billed_shapes_no_bill(world: World) -> None:
    acme = world.tenant()
    for day in range(3):
        at = MONTH_START + timedelta(days=day + 11, hours=9)
        report = usage_report(
            foreign_id=f"free-{day}", quantity=9**9, occurred_at=at, kind=EventKind.FREE
        )
        world.report(acme, report)
    found = balance(world, acme)
    assert found.rated == 20
    assert range_of(found) == (2000, 2000, 2000)


def test_prices_by_the_clock_are_stretched_by_their_amount(world: World) -> None:
    world.plan(HOURLY)
    acme = world.tenant(plan="hourly")
    for day in range(14):
        at = MONTH_START + timedelta(days=day, hours=3)
        world.use(acme, {"tokens.input": 1_000_000}, occurred_at=at)
    found = balance(world, acme)
    assert found.rated == 14
    # Half of today and fifteen days are left.
    assert range_of(found) == (2950, 2950, 2950)
