"""A plan rated over recorded usage beside the contracts: the same code, the same rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.catalog.contract_terms import ChargeOverride, ContractTerms, TermLayer
from billing.operations.catalog.contracts import bind_contract, end_contract
from billing.operations.rating.backtest import backtest, read_candidate
from billing.operations.rating.comparison import (
    CLASSES,
    Change,
    Comparison,
    class_of,
)
from billing.operations.rating.rate_period import rate_period
from billing.operations.rating.rate_tenants import Level
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import PLAN, World, make_world

DEARER = PLAN.replace('"0.20"', '"0.40"').replace('"20.00"', '"5.00"')
NOVEMBER = ((2026, 11),)

Compare = Callable[..., Comparison]


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def compare(world: World) -> Compare:
    def compared(text: str, *, months=NOVEMBER, tenants=None) -> Comparison:
        with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
            return backtest(
                connection,
                plan=read_candidate(connection, text),
                months=months,
                tenants=tenants,
                now=world.now,
            )

    return compared


def invoiced(world: World, tenant: Tenant, at: datetime) -> int:
    """Minor units of a billing period by the way that invoices take."""
    with world.database.transaction(Role.OPERATOR) as connection:
        rated = rate_period(
            connection, tenant=tenant, period=tenant.billing_period(at), until=world.now
        )
    return sum(line.amount.minor for each in rated.contracts for line in each.rating.lines)


def test_R6_the_plan_in_force_changes_nothing(world: World, compare: Compare) -> None:
    tenant = world.tenant("acme")
    usage = {"tokens.input": 7_654_321, "tokens.output": 2_345_678, "outcome.ticket-resolved": 3}
    world.use(tenant, usage)
    found = compare(PLAN)
    (period,) = found.periods
    assert period.before == period.after == invoiced(world, tenant, world.now) > 2000
    assert found.distribution() == [(name, int(name == "the same")) for name in CLASSES]


def test_R6_a_backtest_is_what_the_contract_would_have_cost(world: World, compare: Compare) -> None:
    usage = {"tokens.input": 90_654_321, "tokens.output": 12_345_678}
    old = world.tenant("acme")
    world.use(old, usage)
    found = compare(DEARER, tenants=["acme"])
    world.plan(DEARER)
    new = world.tenant("birch")
    world.use(new, usage)
    (period,) = found.periods
    assert period.before == invoiced(world, old, world.now)
    assert period.after == invoiced(world, new, world.now)
    assert found.total().difference == -1500 + 1813


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_days_and_the_ends_of_spans_are_the_same_usage(
    zone: str, world: World, compare: Compare
) -> None:
    """A contract that begins and ends within days is cut from quarter hours, to the event."""
    tenant = world.tenant("acme", plan=None, zone=zone)
    first = datetime(2026, 11, 3, 9, 15, tzinfo=UTC)
    second = datetime(2026, 11, 9, 17, 45, tzinfo=UTC)
    with world.database.transaction(Role.OPERATOR) as connection:
        before = bind_contract(
            connection, tenant="acme", plan="standard", valid_from=first, now=world.now
        )
        end_contract(connection, before.contract.id, valid_until=second)
        bind_contract(connection, tenant="acme", plan="standard", valid_from=second, now=world.now)
    for edge in (first, second):
        for offset in (-1, 0, 1, 60 * 24):
            at = edge + timedelta(minutes=offset)
            world.use(tenant, {"tokens.input": 1_000_003 + offset}, occurred_at=at)
    (period,) = compare(PLAN).periods
    assert period.level is Level.DAYS
    assert period.before == invoiced(world, tenant, world.now)
    # What was used before any contract stays without a price under the plan too.
    assert [row.quantity for row in period.unrated] == [1_000_002]


def test_what_a_contract_agreed_is_what_the_tenant_paid(world: World, compare: Compare) -> None:
    tenant = world.tenant("acme", plan=None)
    start = tenant.billing_period(world.now).start
    agreed = ChargeOverride(charge="platform", price=Decimal(3))
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection,
            tenant="acme",
            plan="standard",
            valid_from=start,
            terms=ContractTerms(always=TermLayer(overrides=(agreed,))),
            now=world.now,
        )
    (period,) = compare(PLAN).periods
    assert (
        (period.before, period.after) == (invoiced(world, tenant, world.now), 2000) == (300, 2000)
    )


def test_usage_that_the_plan_does_not_price_is_told(world: World, compare: Compare) -> None:
    for slug in ("acme", "birch"):
        world.use(world.tenant(slug), {"tokens.input": 5, "tokens.cached_input": 7})
    found = compare(PLAN.replace("tokens.cached_input", "tokens.cache_write"))
    (row,) = found.unpriced()
    assert (row.meter, row.model, row.quantity, row.tenants) == (
        "tokens.cached_input",
        "tiny",
        14,
        2,
    )


def test_other_currencies_and_tenants_without_contract_are_left_out(
    world: World, compare: Compare
) -> None:
    world.plan(PLAN.replace("slug: standard", "slug: europe").replace("USD", "EUR"))
    world.tenant("euro", plan="europe")
    world.tenant("none", plan=None)
    world.tenant("acme")
    found = compare(PLAN)
    assert [each.tenant for each in found.periods] == ["acme"]
    assert [(each.tenant, each.reason) for each in found.left_out] == [
        ("euro", "contracts in EUR"),
        ("none", "no contract in these months"),
    ]


def test_T2_no_tenants_are_nobody(world: World, compare: Compare) -> None:
    world.tenant("acme")
    assert compare(PLAN, tenants=[]).periods == ()
    assert len(compare(PLAN, tenants=None).periods) == 1


def test_months_to_come_and_before_the_contract_are_not_compared(
    world: World, compare: Compare
) -> None:
    world.tenant("acme")
    found = compare(PLAN, months=[(2026, month) for month in (9, 10, 11, 12)])
    assert [each.month for each in found.periods] == ["2026-11"]


def test_many_periods_are_read_in_pages(
    world: World, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        tenant = world.tenant(f"t{number}")
        world.use(tenant, {"tokens.input": 10_000_000 * (number + 1)})
    whole = compare(DEARER)
    monkeypatch.setattr("billing.operations.rating.rate_tenants.PERIODS_AT_ONCE", 2)
    assert compare(DEARER) == whole
    assert [each.name for each in whole.tenants()] == ["t4", "t3", "t2", "t1", "t0"]


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (100, 100, "the same"),
        (0, 5, "paid nothing before"),
        (100, 50, "less by 50 % and more"),
        (1000, 501, "less by 25 to 50 %"),
        (1000, 999, "less by under 10 %"),
        (1000, 1001, "more by under 10 %"),
        (100, 110, "more by 10 to 25 %"),
        (100, 300, "more by 50 % and more"),
    ],
)
def test_a_change_is_in_one_class(before: int, after: int, name: str) -> None:
    assert class_of(Change(name="", before=before, after=after)) == name
