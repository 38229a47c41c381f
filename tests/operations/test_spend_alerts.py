"""Thresholds on spend: each fires once in a billing period, in the transaction that shows it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.admission.limit import Unit, Window
from billing.errors import Conflict, Forbidden, InvalidInput, NotFound
from billing.metering.correction import Correction
from billing.operations.holds.define_limit import LimitTerms, define_limit
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.rating.alerts import (
    MadeBy,
    define_threshold,
    end_threshold,
    list_alerts,
    list_thresholds,
)
from billing.rating.spend import BaseKind, Threshold, ThresholdBase
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import dying_everywhere
from tests.world import MONTH_END, World, make_world, usage_report
from workers.rating import accrue_changes

MINUTE = timedelta(minutes=1)
COMMITTED = """
slug: committed
name: Committed
currency: USD
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "20.00"}
  - type: per_unit
    key: input
    description: Input tokens
    meter: tokens.input
    models: [tiny]
    price: "0.20"
    per: 1000000
commitments:
  - {key: spend, description: Committed spend, amount: "10.00", charges: [input]}
"""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def watch(
    world: World,
    tenant: Tenant,
    name: str,
    terms: Threshold,
    made_by: MadeBy = MadeBy.OPERATOR,
) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        define_threshold(
            connection, tenant=tenant, name=name, terms=terms, made_by=made_by, now=world.now
        )


def fired(world: World, tenant: Tenant) -> list[tuple[str, int, Decimal, Decimal]]:
    """Name, month, threshold and spend of alerts, oldest first."""
    with world.database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        found = list_alerts(connection, tenant_id=tenant.id)
    return [(each.name, each.period.start.month, each.reached, each.spent) for each in found[::-1]]


def test_a_threshold_fires_once_in_each_billing_period(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    watch(world, acme, "thirty", Threshold(amount=Decimal(30)))
    watch(world, birch, "far", Threshold(amount=Decimal(1000)))
    accrue_changes(world.database, now=world.now)
    assert fired(world, acme) == []
    verdicts = world.report(acme, usage_report(quantity=50_000_000, occurred_at=world.now))
    accrue_changes(world.database, now=world.now + MINUTE)
    once = [("thirty", 11, Decimal(30), Decimal(30))]
    assert fired(world, acme) == once
    # Taken back, and used again: it was told.
    assert verdicts[0].event_id is not None
    void = Correction(corrects=verdicts[0].event_id, source="desk", foreign_id="v", reason="twice")
    with world.database.transaction(Role.OPERATOR) as connection:
        correct_usage(connection, void, tenant_id=acme.id, actor="ada", now=world.now)
    accrue_changes(world.database, now=world.now + 2 * MINUTE)
    world.use(acme, {"tokens.input": 100_000_000})
    accrue_changes(world.database, now=world.now + 3 * MINUTE)
    assert fired(world, acme) == once
    # A new period, a new alert.
    december = replace(world, now=MONTH_END + timedelta(days=3))
    accrue_changes(world.database, now=december.now)
    december.use(acme, {"tokens.input": 60_000_000})
    accrue_changes(world.database, now=december.now + MINUTE)
    assert fired(world, acme) == [*once, ("thirty", 12, Decimal(30), Decimal(32))]
    assert fired(world, birch) == []


def test_what_is_reached_when_it_is_defined_fires_with_the_next_turn(world: World) -> None:
    acme = world.tenant()
    accrue_changes(world.database, now=world.now)
    watch(world, acme, "ten", Threshold(amount=Decimal(10)))
    accrue_changes(world.database, now=world.now + MINUTE)
    assert fired(world, acme) == [("ten", 11, Decimal(10), Decimal(20))]


def test_a_percentage_is_of_a_limit_or_of_a_commitment(world: World) -> None:
    world.plan(COMMITTED)
    acme = world.tenant(plan="committed")
    limit = LimitTerms(
        unit=Unit.MONEY, window=Window.MONTH, capacity=Decimal(50), currency="USD", hard=False
    )
    with world.database.transaction(Role.OPERATOR) as connection:
        define_limit(connection, tenant=acme, name="budget", terms=limit, now=world.now)
    for name, percent, kind, base in (
        ("half-budget", 44, BaseKind.LIMIT, "budget"),
        ("most-spend", 80, BaseKind.COMMITMENT, "spend"),
        ("no-such", 1, BaseKind.COMMITMENT, "other"),
    ):
        of = ThresholdBase(kind=kind, name=base)
        watch(world, acme, name, Threshold(percent=Decimal(percent), base=of))
    world.use(acme, {"tokens.input": 10_000_000})
    accrue_changes(world.database, now=world.now)
    # The fee counts in the budget, and not towards the commitment.
    assert fired(world, acme) == [("half-budget", 11, Decimal(22), Decimal(22))]
    world.use(acme, {"tokens.input": 30_000_000})
    accrue_changes(world.database, now=world.now + MINUTE)
    assert fired(world, acme)[1:] == [("most-spend", 11, Decimal(8), Decimal(8))]


def test_L5_a_worker_that_dies_anywhere_tells_once(world: World) -> None:
    acme = world.tenant()
    watch(world, acme, "ten", Threshold(amount=Decimal(10)))
    dying_everywhere(world.database.engine, lambda: accrue_changes(world.database, now=world.now))
    assert len(fired(world, acme)) == 1


def test_who_defines_a_threshold_ends_it(world: World) -> None:
    acme, birch = world.tenant("acme"), world.tenant("birch")
    ten, eleven = Threshold(amount=Decimal(10)), Threshold(amount=Decimal(11))
    watch(world, acme, "ours", ten)
    for _ in range(2):  # L3
        with world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
            define_threshold(
                connection,
                tenant=acme,
                name="theirs",
                terms=eleven,
                made_by=MadeBy.TENANT,
                now=world.now,
            )
    with pytest.raises(Conflict) as refused:
        watch(world, acme, "theirs", ten)
    assert (refused.value.field, refused.value.remedy is None) == ("name", False)
    with world.database.transaction(Role.TENANT, tenant_id=birch.id) as connection:
        assert list_thresholds(connection, tenant=birch) == []
        assert list_thresholds(connection, tenant=acme) == []  # T1
    with world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
        names = [row.name for row in list_thresholds(connection, tenant=acme)]
        with pytest.raises(Forbidden):
            end_threshold(
                connection, tenant=acme, name="ours", asked_by=MadeBy.TENANT, now=world.now
            )
        end_threshold(connection, tenant=acme, name="theirs", asked_by=MadeBy.TENANT, now=world.now)
        with pytest.raises(NotFound):
            end_threshold(
                connection, tenant=acme, name="theirs", asked_by=MadeBy.TENANT, now=world.now
            )
    assert names == ["ours", "theirs"]
    accrue_changes(world.database, now=world.now)
    assert [name for name, *_ in fired(world, acme)] == ["ours"]


OF_LIMIT = ThresholdBase(kind=BaseKind.LIMIT, name="budget")


@pytest.mark.parametrize(
    ("amount", "percent", "base", "field"),
    [
        (None, None, None, "amount"),
        (Decimal(1), Decimal(1), OF_LIMIT, "amount"),
        (None, Decimal(1), None, "base"),
        (Decimal(1), None, OF_LIMIT, "base"),
        (Decimal(0), None, None, "amount"),
        (Decimal("NaN"), None, None, "amount"),
        (Decimal(10) ** 26, None, None, "amount"),
        (Decimal("1e-13"), None, None, "amount"),
        (None, Decimal(-1), OF_LIMIT, "percent"),
        (None, Decimal("0.00001"), OF_LIMIT, "percent"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused(
    amount: Decimal | None, percent: Decimal | None, base: ThresholdBase | None, field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        Threshold(amount=amount, percent=percent, base=base)
    assert refused.value.field == field
    assert refused.value.remedy
