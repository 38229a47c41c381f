"""Plans are versions that stay; a quantity has one price; a contract bound late resolves usage."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from billing.errors import InvalidInput, InvalidPlan, NotFound, OverlappingCharges, UnratedUsage
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.catalog.plans import apply_plan, list_plans, require_plan
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import BUCKET
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, PLAN, World, make_world, usage_report

REQUESTS = """
slug: requests
name: Requests
currency: USD
charges:
  - {type: per_unit, key: requests, description: Requests, meter: requests, price: "0.01"}
"""
LARGE = """
slug: large
name: Large model
currency: USD
charges:
  - type: per_unit
    key: large
    description: Large model
    meter: tokens.input
    models: [large]
    price: "2"
"""
ALL_INPUT = """
slug: all-input
name: All input
currency: USD
charges:
  - {type: per_unit, key: any, description: Any model, meter: tokens.input, price: "3"}
"""
DAY = timedelta(days=1)


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    made = make_world(database, now)
    for text in (REQUESTS, LARGE, ALL_INPUT):
        made.plan(text)
    return made


def bind(world: World, plan: str, start: datetime, end: datetime | None = None) -> int:
    with world.database.transaction(Role.OPERATOR) as connection:
        bound = bind_contract(
            connection,
            tenant="acme",
            plan=plan,
            valid_from=start,
            valid_until=end,
            now=world.now,
        )
    return bound.contract.id


def rated(world: World, tenant: Tenant) -> RatedPeriod:
    with world.database.transaction(Role.OPERATOR) as connection:
        return rate_period(connection, tenant=tenant, period=tenant.billing_period(world.now))


def exact(world: World, tenant: Tenant) -> dict[tuple[str, str], Decimal]:
    """Exact amounts by plan and line key, fees left out."""
    return {
        (contract.bound.plan.slug, line.key): line.exact
        for contract in rated(world, tenant).contracts
        for line in contract.rating.lines
        if line.key != "platform" and line.exact
    }


def test_the_same_plan_twice_is_one_version_and_another_is_the_next(world: World) -> None:
    changed = PLAN.replace('"0.20"', '"0.25"')
    made: list[tuple[int | None, bool]] = []
    for text in (PLAN, f"# a comment changes nothing\n{PLAN}", changed, changed, PLAN):
        with world.database.transaction(Role.OPERATOR) as connection:
            applied = apply_plan(connection, text, now=world.now)
        made.append((applied.plan.version, applied.created))
    assert made == [(1, False), (1, False), (2, True), (2, False), (3, True)]
    with world.database.transaction(Role.OPERATOR) as connection:
        versions = [plan.version for plan in list_plans(connection) if plan.slug == "standard"]
        assert versions == [1, 2, 3]
        first = require_plan(connection, "standard", 1)
        assert require_plan(connection, "standard").version == 3
        assert require_plan(connection, "standard", 3).charges == first.charges
        assert require_plan(connection, "standard", 2).charges != first.charges
        with pytest.raises(NotFound):
            require_plan(connection, "standard", 4)


def test_a_plan_with_an_unknown_meter_is_refused_and_stores_nothing(world: World) -> None:
    with pytest.raises(InvalidPlan), world.database.transaction(Role.OPERATOR) as connection:
        apply_plan(connection, REQUESTS.replace("meter: requests", "meter: pages"), now=world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert require_plan(connection, "requests").version == 1


def test_R7_a_second_price_for_one_quantity_is_refused(world: World) -> None:
    world.tenant(plan=None)
    bind(world, "standard", MONTH_START, MONTH_START + 10 * DAY)
    bind(world, "requests", MONTH_START)  # other quantities of the same events
    bind(world, "large", MONTH_START)  # another model
    for start, end in (
        (MONTH_START, None),
        (MONTH_START + 10 * DAY - BUCKET, None),
        (MONTH_START - 5 * DAY, MONTH_START + BUCKET),
    ):
        with pytest.raises(OverlappingCharges):
            bind(world, "standard", start, end)
        with pytest.raises(OverlappingCharges):
            bind(world, "all-input", start, end)
    # Half-open: what begins where the other ends does not overlap it.
    bind(world, "standard", MONTH_START + 10 * DAY)
    with world.database.transaction(Role.OPERATOR) as connection:
        assert len(list_contracts(connection)) == 4


@pytest.mark.parametrize("off_grid", [timedelta(microseconds=1), timedelta(minutes=7)])
def test_dates_off_the_grid_are_refused(world: World, off_grid: timedelta) -> None:
    world.tenant(plan=None)
    with pytest.raises(InvalidInput, match="grid"):
        bind(world, "standard", MONTH_START + off_grid)
    with pytest.raises(InvalidInput, match="grid"):
        bind(world, "standard", MONTH_START, MONTH_END + off_grid)
    contract = bind(world, "standard", MONTH_START)
    with (
        pytest.raises(InvalidInput, match="grid"),
        world.database.transaction(Role.OPERATOR) as connection,
    ):
        end_contract(connection, contract, valid_until=MONTH_END + off_grid)


def test_a_contract_ends_after_it_starts_and_ends_once(world: World) -> None:
    world.tenant(plan=None)
    with pytest.raises(InvalidInput):
        bind(world, "standard", MONTH_END, MONTH_END)
    contract = bind(world, "standard", MONTH_START)

    def end(at: datetime, number: int = contract) -> datetime | None:
        with world.database.transaction(Role.OPERATOR) as connection:
            return end_contract(connection, number, valid_until=at).valid_until

    with pytest.raises(InvalidInput):
        end(MONTH_START)
    assert end(MONTH_END) == MONTH_END
    with pytest.raises(NotFound):
        end(MONTH_END + DAY)
    with pytest.raises(NotFound):
        end(MONTH_END, number=contract + 1)


def test_the_price_in_force_when_it_happened_is_the_one_that_counts(world: World) -> None:
    acme = world.tenant(plan=None)
    bind(world, "standard", MONTH_START, MONTH_START + 5 * DAY)
    world.plan(PLAN.replace('"0.20"', '"0.40"'))
    bind(world, "standard", MONTH_START + 5 * DAY)
    edge = MONTH_START + 5 * DAY
    # Reported in the wrong order, all of it after the change.
    for at, quantity in ((edge, 10), (edge - timedelta(microseconds=1), 1_000), (edge + DAY, 5)):
        world.use(acme, {"tokens.input": quantity * 1_000_000}, occurred_at=at)
    by_version = {
        contract.bound.contract.plan_version: {
            line.key: line.exact for line in contract.rating.lines
        }["input"]
        for contract in rated(world, acme).contracts
    }
    assert by_version == {1: Decimal(200), 2: Decimal(6)}


def test_R5_a_contract_bound_backwards_resolves_usage_of_nobody(world: World) -> None:
    acme = world.tenant(plan=None)
    world.use(acme, {"tokens.input": 1_000_000}, occurred_at=MONTH_START + DAY)
    before = rated(world, acme)
    assert [row.quantity for row in before.unrated] == [1_000_000]
    bind(world, "standard", MONTH_START)
    assert rated(world, acme).unrated == ()
    assert exact(world, acme) == {("standard", "input"): Decimal("0.2")}


def test_R5_a_second_contract_bound_backwards_resolves_what_the_first_does_not_price(
    world: World,
) -> None:
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_000_000})
    world.use(acme, {"tokens.input": 7}, model="large")
    period = acme.billing_period(world.now)
    with pytest.raises(UnratedUsage), world.database.transaction(Role.OPERATOR) as connection:
        issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
    bind(world, "large", MONTH_START)
    assert rated(world, acme).unrated == ()
    assert exact(world, acme) == {
        ("standard", "input"): Decimal("0.2"),
        ("large", "large"): Decimal(14),
    }
    with world.database.transaction(Role.OPERATOR) as connection:
        invoice = issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
    assert invoice.total_minor == 2000 + 20 + 1400


def test_R5_contracts_bound_backwards_one_after_the_other_resolve_their_own_days(
    world: World,
) -> None:
    acme = world.tenant(plan=None)
    for day in (1, 8):
        world.use(acme, {"tokens.input": 1_000_000}, occurred_at=MONTH_START + day * DAY)
    bind(world, "standard", MONTH_START, MONTH_START + 5 * DAY)
    half = rated(world, acme)
    assert [row.quantity for row in half.unrated] == [1_000_000]
    bind(world, "all-input", MONTH_START + 5 * DAY)
    assert rated(world, acme).unrated == ()
    assert exact(world, acme) == {
        ("standard", "input"): Decimal("0.2"),
        ("all-input", "any"): Decimal(3_000_000),
    }


def test_usage_after_the_end_of_a_contract_is_unrated(world: World) -> None:
    acme = world.tenant(plan=None)
    contract = bind(world, "standard", MONTH_START)
    with world.database.transaction(Role.OPERATOR) as connection:
        end_contract(connection, contract, valid_until=MONTH_START + 5 * DAY)
    world.use(acme, {"tokens.input": 10}, occurred_at=MONTH_START + 5 * DAY)
    world.use(acme, {"tokens.input": 1}, occurred_at=MONTH_START + 5 * DAY - BUCKET)
    assert [row.quantity for row in rated(world, acme).unrated] == [10]


def test_the_recorded_price_version_names_the_contracts_then_in_force(world: World) -> None:
    acme = world.tenant(plan=None)
    first = bind(world, "standard", MONTH_START, MONTH_START + 5 * DAY)
    second = bind(world, "requests", MONTH_START + 2 * DAY)
    for day in (0, 3, 6, -1):
        at = MONTH_START + day * DAY
        world.report(acme, usage_report(foreign_id=str(day), meter="requests", occurred_at=at))
    with world.database.transaction(Role.OPERATOR) as connection:
        recorded = connection.execute(
            sa.text(
                "SELECT contract_ids FROM usage_event e "
                "LEFT JOIN price_version p ON p.id = e.price_version_id ORDER BY occurred_at"
            )
        ).scalars()
        assert list(recorded) == [None, [first], [first, second], [second]]
