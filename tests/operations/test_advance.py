"""Fees in advance: billed before their period, earned in it, and given back where it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.errors import Conflict
from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.money import currency, from_minor
from billing.operations.catalog.contracts import end_contract, list_contracts
from billing.operations.invoicing.explain_line import explain_lines
from billing.operations.invoicing.issue_advance import issue_advance
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import list_invoices, require_invoice
from billing.operations.invoicing.verify_invoice import verify_invoice
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.embedded.address import ServerAddress
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant
from tests.conftest import migrated_copy
from tests.world import MONTH_END, World, make_world

NOVEMBER = datetime(2026, 11, 15, 12, tzinfo=UTC)
JANUARY, FEBRUARY, MARCH = (datetime(2027, month, 1, tzinfo=UTC) for month in (1, 2, 3))
PLAN = """
slug: ahead
name: A fee in advance
currency: USD
charges:
  - {type: flat_fee, key: platform, description: Platform, amount: "100.00", in_advance: true,
     discount_percent: "3.333"}
  - {type: per_unit, key: input, description: Input, meter: tokens.input, models: [tiny],
     price: "0.001"}
coupons:
  - {key: tenth, description: A tenth off input, percent_off: "10", charges: [input]}
"""
FEE = 9667
"""96.667, rounded."""


@pytest.fixture(scope="module")
def world(postgres: ServerAddress) -> Iterator[World]:
    with migrated_copy(postgres) as name:
        opened = Database(postgres.app_url(name))
        made = make_world(opened, NOVEMBER)
        made.plan(PLAN)
        yield made
        opened.close()


def advance(world: World, owner: Tenant, now: datetime = NOVEMBER) -> tuple[InvoiceRow, ...]:
    with world.database.transaction(Role.OPERATOR) as connection:
        return issue_advance(
            connection, tenant=owner, period=owner.billing_period(NOVEMBER), now=now
        )


def issue(world: World, owner: Tenant, end: datetime) -> dict[str, int]:
    period = owner.billing_period(end - timedelta(days=1))
    with world.database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=owner, period=period, now=end)
    return lines(world, issued)


def lines(world: World, issued: InvoiceRow) -> dict[str, int]:
    """Amounts by key; every line explains itself, and the invoice verifies."""
    with world.database.transaction(Role.OPERATOR) as connection:
        view = require_invoice(connection, str(issued.id), tenant_id=None)
        explained = explain_lines(connection, view)
        assert [c for line in explained for c in line.checks if not c.agrees] == []
        assert verify_invoice(connection, str(issued.id)).findings == ()
    return {line.key.split("/")[-1]: line.amount_minor for line in view.lines}


def end(world: World, owner: Tenant, at: datetime) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        contract = list_contracts(connection, tenant_id=owner.id)[0]
        end_contract(connection, contract.id, valid_until=at)


def balance(world: World, owner: Tenant, code: AccountCode) -> Decimal:
    books = Books(legal_entity_id=1, tenant_id=owner.id, currency="USD")
    with world.database.transaction(Role.OPERATOR) as connection:
        return ledger.balance(connection, books.account(code))


def require_ties(world: World, owner: Tenant, *, earned: str) -> None:
    """R1 over all documents, once every period that was billed is earned."""
    with world.database.transaction(Role.OPERATOR) as connection:
        documents = list_invoices(connection, tenant_id=owner.id)
    newest = max(documents, key=lambda row: row.number or "")
    total = from_minor(sum(row.total_minor for row in documents), currency("USD"))
    assert balance(world, owner, AccountCode.RECEIVABLE) == total
    assert balance(world, owner, AccountCode.UNBILLED) == newest.residual_after
    assert -balance(world, owner, AccountCode.REVENUE) == Decimal(earned)
    assert abs(newest.residual_after) < Decimal("0.02")


def test_R1_three_periods_in_advance_and_a_contract_that_ends_within_the_last(
    world: World,
) -> None:
    acme = world.tenant("acme", plan="ahead")
    (first,) = advance(world, acme)
    assert (first.kind, first.total_minor) == ("advance", FEE)
    assert lines(world, first) == {"platform@2026-11-01": FEE}
    assert balance(world, acme, AccountCode.UNBILLED) == Decimal("-96.67"), "nothing is earned yet"
    assert advance(world, acme) == (), "it is billed once"
    world.use(acme, {"tokens.input": 5000})
    with world.database.transaction(Role.OPERATOR) as connection:
        period = acme.billing_period(NOVEMBER)
        accrue_usage(connection, tenant=acme, period=period, now=NOVEMBER)
    assert issue(world, acme, MONTH_END) == {
        "input": 500, "tenth": -50, "platform@2026-12-01": FEE
    }  # fmt: skip
    assert issue(world, acme, JANUARY) == {"platform@2027-01-01": FEE}
    # After January was billed, the contract ends with its 10th day: 10 of 31 days of 96.667.
    end(world, acme, JANUARY + timedelta(days=10))
    replace(world, now=JANUARY + timedelta(days=9)).use(
        acme, {"tokens.input": 90_000}, occurred_at=JANUARY + timedelta(days=9)
    )
    assert issue(world, acme, FEBRUARY) == {
        "platform": 3118 - FEE, "input": 9000, "tenth": -900
    }  # fmt: skip
    # Two months, 10 of 31 days, 5 and 90 of usage; the coupons of 9.50 are on their own account.
    require_ties(world, acme, earned="319.516903225806")


def test_an_end_that_is_known_prorates_the_fee_in_advance(world: World) -> None:
    birch = world.tenant("birch", plan="ahead")
    end(world, birch, MONTH_END + timedelta(days=10))
    # Nobody asked for November's in advance: it is on November's own invoice.
    assert issue(world, birch, MONTH_END) == {"platform": FEE, "platform@2026-12-01": 3118}
    assert issue(world, birch, JANUARY) == {}
    require_ties(world, birch, earned="127.849903225806")


def test_what_was_billed_for_a_period_that_the_contract_does_not_reach_is_given_back(
    world: World,
) -> None:
    cedar = world.tenant("cedar", plan="ahead")
    assert issue(world, cedar, MONTH_END) == {"platform": FEE, "platform@2026-12-01": FEE}
    end(world, cedar, MONTH_END)
    assert balance(world, cedar, AccountCode.UNBILLED) < -96
    with world.database.transaction(Role.OPERATOR) as connection:
        (note,) = issue_corrections(connection, tenant=cedar, now=MONTH_END + timedelta(days=1))
    assert (note.kind, note.period_start) == ("credit_note", MONTH_END)
    assert lines(world, note) == {"platform@2026-12-01": -FEE}
    require_ties(world, cedar, earned="96.667")
    with world.database.transaction(Role.OPERATOR) as connection:
        assert issue_corrections(connection, tenant=cedar, now=FEBRUARY) == ()


def test_fees_in_advance_are_of_a_period_that_runs(world: World) -> None:
    doris = world.tenant("doris", plan="ahead")
    for now in (MONTH_END, NOVEMBER - timedelta(days=15)):
        with pytest.raises(Conflict):
            advance(world, doris, now)
    elm = world.tenant("elm", plan="standard")
    assert advance(world, elm) == ()
