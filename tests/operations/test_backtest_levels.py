"""A backtest reads usage as finely as the contracts and the plan ask, and says how finely."""

from __future__ import annotations

from datetime import datetime
from random import Random

import pytest

from billing.operations.catalog.contracts import bound_plans
from billing.operations.metering.define_meter import define_meter
from billing.operations.rating.backtest import backtest, read_candidate
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.operations.rating.rate_tenants import Level, rate_tenants, tenant_periods
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.test_rated_dimensions import (
    HEAD,
    HOURS,
    MATRIX,
    METERS,
    PAID,
    SPLIT,
    at,
    send,
)
from tests.world import World, make_world

SUMS = f"""{HEAD}
  - {{type: per_unit, key: all, description: All, meter: ctx, price: "3"}}
"""
NEW = "slug: new\nname: New"


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    with database.transaction(Role.OPERATOR) as connection:
        for text in METERS:
            define_meter(connection, text, now=now)
    return made


@pytest.mark.parametrize(
    ("plan", "level"),
    [
        (SUMS, Level.DAYS),
        (SPLIT, Level.DIMENSIONS),
        (HOURS, Level.QUARTER_HOURS),
        (MATRIX, Level.EVENTS),
        (PAID, Level.EVENTS),
    ],
    ids=["sums", "split", "hours", "matrix", "paid"],
)
def test_R6_every_level_gives_what_the_contract_would_have_cost(
    plan: str, level: Level, world: World
) -> None:
    candidate = plan.replace("slug: dims\nname: Dims", NEW)
    world.plan(SUMS)
    world.plan(candidate)
    old = world.tenant("acme", plan="dims")
    new = world.tenant("birch", plan="new")
    dice = Random(7)
    for _ in range(25):
        n, value = dice.choice((1, 8000, 50_000)), dice.randrange(1, 40)
        region, moment = dice.choice(("eu", "us")), at(dice.randrange(300), dice.randrange(60))
        for tenant in (old, new):
            for kind in ("t.ctx", "t.paid"):
                data = {"v": str(value), "n": n, "region": region}
                send(world, tenant, kind, data, moment)
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        found = backtest(
            connection,
            plan=read_candidate(connection, candidate),
            months=[(2026, 11)],
            tenants=["acme"],
            now=world.now,
        )
        both = tenant_periods(
            connection,
            [(tenant, tenant.billing_period(world.now)) for tenant in (old, new)],
            bound_plans(connection),
        )
        together = list(rate_tenants(connection, both, until=world.now))
    assert together == [invoiced(world, old), invoiced(world, new)]
    assert [each.level for each in both] == [Level.DAYS, level]
    (period,) = found.periods
    assert period.level is level
    assert period.before == minor(invoiced(world, old))
    assert period.after == minor(invoiced(world, new))
    assert {(row.meter, row.model) for row in period.unrated} == {
        (row.meter, row.model) for row in invoiced(world, new).unrated
    }


def invoiced(world: World, tenant: Tenant) -> RatedPeriod:
    with world.database.transaction(Role.OPERATOR) as connection:
        period = tenant.billing_period(world.now)
        return rate_period(connection, tenant=tenant, period=period, until=world.now)


def minor(rated: RatedPeriod) -> int:
    return sum(line.amount.minor for each in rated.contracts for line in each.rating.lines)
