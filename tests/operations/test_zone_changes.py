"""Clocks that change within a billing period: contracts that part it there add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.invoicing.verify_invoice import verify_invoice
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.world import World, make_world

ZONES = {
    # The hour before and the hour after the clocks of each change.
    "Europe/Berlin": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "America/Santiago": datetime(2026, 9, 6, 4, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    # It never changes, and its midnights are at a quarter to.
    "Asia/Kathmandu": datetime(2026, 10, 14, 18, 15, tzinfo=UTC),
}
PLAN = """
slug: clocks
name: Fees by days, usage by hours of the night and of the day
currency: USD
windows:
  night: {from: "22:00", to: "06:00"}
  day: {rest_of: night}
charges:
  - {type: flat_fee, key: platform, description: Platform, amount: "100.00"}
  - {type: per_unit, key: night, description: At night, meter: tokens.input, models: [tiny],
     price: "0.000123456789", during: night}
  - {type: per_unit, key: day, description: By day, meter: tokens.input, models: [tiny],
     price: "0.001", during: day}
"""


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    with migrated_copy(postgres) as name:
        opened = Database(postgres.app_url(name))
        yield make_world(opened, datetime(2026, 11, 15, 12, tzinfo=UTC), plan=PLAN)
        opened.close()


def part(world: World, owner: Tenant, at: datetime) -> None:
    """End the tenant's contract and bind the same plan from that instant on."""
    with world.database.transaction(Role.OPERATOR) as connection:
        last = list_contracts(connection, tenant_id=owner.id)[-1]
        end_contract(connection, last.id, valid_until=at)
        bind_contract(connection, tenant=owner.slug, plan="clocks", valid_from=at, now=world.now)


def billed(world: World, owner: Tenant, at: datetime) -> dict[str, Decimal]:
    """Exact amounts of the period's invoice by charge, over contracts; the invoice verifies."""
    period = owner.billing_period(at)
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=owner, period=period, now=period.end)
        assert verify_invoice(connection, str(issued.id)).findings == ()
        view = require_invoice(connection, str(issued.id), tenant_id=None)
        books = Books(legal_entity_id=1, tenant_id=owner.id, currency="USD")
        earned = -ledger.balance(connection, books.account(AccountCode.REVENUE))
    sums: dict[str, Decimal] = {}
    for line in view.lines:
        key = line.key.rsplit("/", 1)[-1]
        sums[key] = sums.get(key, Decimal(0)) + line.exact
    assert sum(sums.values()) == earned
    return sums


@pytest.mark.parametrize("zone", ZONES)
def test_R2_contracts_that_part_a_period_at_a_change_of_clocks_add_up_to_the_whole(
    world: World, zone: str
) -> None:
    change = ZONES[zone]
    slug = zone.lower().replace("/", "-").replace("_", "-")
    whole, parted = (world.tenant(f"{slug}-{each}", plan=None, zone=zone) for each in "ab")
    for owner in (whole, parted):
        start = owner.billing_period(change).start
        with world.database.transaction(Role.OPERATOR) as connection:
            bind_contract(
                connection, tenant=owner.slug, plan="clocks", valid_from=start, now=world.now
            )
    for at in (change - timedelta(hours=10), change, change + timedelta(minutes=45)):
        part(world, parted, at)
    for owner in (whole, parted):
        for quarter in range(-48, 49, 7):
            world.use(
                owner,
                {"tokens.input": 1000 + quarter},
                occurred_at=change + timedelta(minutes=15 * quarter + 7),
            )
    once, sums = (billed(world, owner, change) for owner in (whole, parted))
    assert sums == once
    assert once["platform"] == 100
    assert once["night"] > 0 < once["day"]
