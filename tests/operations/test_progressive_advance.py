"""Fees in advance and invoices on the way in one period: each is billed once, earned in full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.money import EXACT, currency, from_minor
from billing.operations.catalog.contracts import end_contract, list_contracts
from billing.operations.invoicing.issue_advance import issue_advance
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.verify_invoice import verify_invoice
from billing.store import invoices as store
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.world import MONTH_END, World, make_world
from workers.rating import accrue_changes

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
PLAN = """
slug: both
name: A fee in advance, and invoices on the way
currency: USD
progressive_invoicing: {threshold: "25.00"}
charges:
  - {type: flat_fee, key: platform, description: Platform, amount: "20.00", in_advance: true}
  - {type: per_unit, key: input, description: Input, meter: tokens.input, models: [tiny],
     price: "0.01", minimum: "12.00"}
"""
USED_1 = ("use", 1000)
"""10.00 of usage."""
USED_3 = ("use", 3000)
AHEAD, LAST, ENDED = ("advance", 0), ("invoice", 0), ("end", 0)

# What happens in November and, after `invoice`, in December; (kind, subtotal) of the documents.
EXAMPLES = {
    # The fee was billed before it was earned: of 30.00 earned 20.00 are not owed again.
    "paid ahead, below the threshold": (
        [AHEAD, USED_1, LAST],
        [("advance", 2000), ("period", 1200 + 2000)],
    ),
    "paid ahead, then beyond the threshold": (
        [AHEAD, USED_3, USED_1, LAST],
        [("advance", 2000), ("progressive", 3000), ("period", 1000 + 2000)],
    ),
    "on the way with the fee, then asked for ahead": (
        [USED_1, AHEAD, LAST],
        [("progressive", 2000 + 1000), ("period", 200 + 2000)],
    ),
    "december, whose fee november's invoice billed": (
        [AHEAD, LAST, USED_1, USED_3, LAST],
        [("advance", 2000), ("period", 1200 + 2000), ("progressive", 4000), ("period", 2000)],
    ),
    # 14 of 30 days of the fee are due.
    "a contract that ends in between gives the fee back": (
        [AHEAD, USED_3, ENDED, LAST],
        [("advance", 2000), ("progressive", 3000), ("period", 0), ("credit_note", 933 - 2000)],
    ),
}


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    with migrated_copy(postgres) as name:
        opened = Database(postgres.app_url(name))
        made = make_world(opened, NOVEMBER)
        made.plan(PLAN)
        yield made
        opened.close()


def documents(world: World, tenant: Tenant) -> list[InvoiceRow]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = store.invoices(connection, tenant_id=tenant.id)
    return sorted(rows, key=lambda row: row.number or "")


def play(world: World, tenant: Tenant, steps: list[tuple[str, int]]) -> None:
    """Do what an example says, with a worker's turn behind each step."""
    at, end = NOVEMBER, MONTH_END
    for step, quantity in steps:
        period = tenant.billing_period(at)
        at += timedelta(minutes=15)
        with world.database.transaction(Role.OPERATOR) as connection:
            match step:
                case "advance":
                    issue_advance(connection, tenant=tenant, period=period, now=at)
                case "end":
                    (contract,) = list_contracts(connection, tenant_id=tenant.id)
                    midnight = NOVEMBER.replace(hour=0)
                    end_contract(connection, contract.id, valid_until=midnight)
                case "invoice":
                    issue_invoice(connection, tenant=tenant, period=period, now=end)
                    at, end = end, JANUARY
                case _:
                    pass
        if step == "use":
            replace(world, now=at).use(tenant, {"tokens.input": quantity})
        accrue_changes(world.database, now=at)


@pytest.mark.parametrize("name", EXAMPLES)
def test_R1_every_fee_is_billed_once_and_every_document_ties(world: World, name: str) -> None:
    steps, expected = EXAMPLES[name]
    tenant = world.tenant(f"t-{list(EXAMPLES).index(name)}", plan="both")
    play(world, tenant, steps)
    made = documents(world, tenant)
    assert [(row.kind, row.subtotal_minor) for row in made] == expected
    with world.database.transaction(Role.OPERATOR, snapshot=True) as connection:
        for row in made:
            assert verify_invoice(connection, str(row.id)).findings == (), row.number
        books = Books(legal_entity_id=1, tenant_id=tenant.id, currency="USD")
        receivable = ledger.balance(connection, books.account(AccountCode.RECEIVABLE))
        unbilled = ledger.balance(connection, books.account(AccountCode.UNBILLED))
        revenue = ledger.balance(connection, books.account(AccountCode.REVENUE))
    total = from_minor(sum(row.total_minor for row in made), currency("USD"))
    assert receivable == total
    assert EXACT.add(unbilled, receivable) == -revenue
    # What was billed ahead is earned by now: a fraction of a cent is left.
    assert abs(unbilled) < Decimal("0.01")
