"""What users of billing engines complain about, of rated usage: see `rating/README.md`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import list_invoices, require_invoice
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world

INSTANT = timedelta(microseconds=1)
ZONES = ("UTC", "Asia/Kathmandu", "America/St_Johns")


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


def rated(world: World, tenant: Tenant, period: Period) -> RatedPeriod:
    with world.database.transaction(Role.OPERATOR) as connection:
        return rate_period(connection, tenant=tenant, period=period)


def quantities(found: RatedPeriod) -> list[Decimal]:
    return [
        line.quantity
        for contract in found.contracts
        for line in contract.rating.lines
        if line.meter is not None
    ]


@pytest.mark.parametrize("zone", ZONES)
def test_row_07_an_event_at_a_boundary_is_in_one_period(world: World, zone: str):
    acme = world.tenant("acme", zone=zone)
    # The contract begins with this period, so what lies before it waits for a price.
    period = acme.billing_period(MONTH_START + timedelta(days=5))
    before = acme.billing_period(period.start - INSTANT)
    places = {1: -INSTANT, 10: timedelta(0), 100: INSTANT}
    for quantity, off in places.items():
        world.use(acme, {"tokens.output": quantity}, occurred_at=period.start + off)
    assert (before.end, quantities(rated(world, acme, period))) == (period.start, [110])
    earlier = rated(world, acme, before)
    assert [each.quantity for each in earlier.unrated] == [1]
    assert quantities(earlier) == []


def test_rows_10_and_16_runs_at_once_in_three_zones_give_one_invoice_each(world: World):
    tenants = [
        world.tenant(f"tenant-{number}", zone=zone) for number, zone in enumerate(ZONES, start=1)
    ]
    for tenant in tenants:
        world.use(tenant, {"tokens.output": 900_000})

    def run(tenant: Tenant) -> str | None:
        period = tenant.billing_period(world.now)
        with world.database.transaction(Role.OPERATOR) as connection:
            return issue_invoice(connection, tenant=tenant, period=period, now=period.end).number

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(run, [*tenants, *tenants]))
    assert numbers[:3] == numbers[3:]
    assert set(numbers) == {"INV-000001", "INV-000002", "INV-000003"}
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = list_invoices(connection, tenant_id=None)
        assert [invoice.total_minor for invoice in issued] == [2072] * 3
        for invoice, tenant in ((each, _named(tenants, each.tenant)) for each in issued):
            assert invoice.period == tenant.billing_period(world.now)


def _named(tenants: list[Tenant], slug: str) -> Tenant:
    return next(tenant for tenant in tenants if tenant.slug == slug)


def test_row_13_an_invoice_run_reads_no_event(
    world: World, postgres: ServerAddress, database_name: str
):
    acme = world.tenant("acme")
    for quantity in (900_000, 600_000, 7):
        world.use(acme, {"tokens.output": quantity, "tokens.input": quantity})
    with_events = rated(world, acme, acme.billing_period(world.now))
    with psycopg.connect(postgres.owner_conninfo(database_name), autocommit=True) as owner:
        owner.execute("ALTER TABLE usage_event RENAME TO events_are_elsewhere")
    period = acme.billing_period(world.now)
    assert rated(world, acme, period) == with_events
    with world.database.transaction(Role.OPERATOR) as connection:
        invoice = issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
        lines = require_invoice(connection, str(invoice.id), tenant_id=None).lines
    assert [line.quantity for line in lines if line.meter] == [1_500_007, 1_500_007]
