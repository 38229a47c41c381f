"""Contracts that change after an invoice, currencies that change, clocks that disagree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.errors import Conflict
from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.store import ledger
from billing.store.changed_periods import changed_periods
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, make_world, usage_report

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC)

SUPPORT = """
slug: support
name: Support
currency: USD
charges:
  - {type: flat_fee, key: support, description: Support, amount: "99.00"}
"""
IN_EUROS = """
slug: euros
name: In euros
currency: EUR
charges:
  - {type: flat_fee, key: platform, description: Platform fee, amount: "30.00"}
  - type: per_unit
    key: input
    description: Input tokens
    meter: tokens.input
    models: [tiny]
    price: "0.20"
    per: 1000000
"""


def _issue(
    database: Database, tenant: Tenant, end: datetime, *, now: datetime | None = None
) -> InvoiceView:
    period = tenant.billing_period(end - timedelta(days=1))
    with database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=now or end)
        return require_invoice(connection, str(issued.id), tenant_id=None)


def _bind(
    database: Database, plan: str, since: datetime, until: datetime | None, *, now: datetime
) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        bind_contract(
            connection, tenant="acme", plan=plan, valid_from=since, valid_until=until, now=now
        )


def test_R4_a_contract_bound_into_an_invoiced_period_is_billed_there_once(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    world.plan(SUPPORT)
    acme = world.tenant()
    _issue(database, acme, MONTH_END)
    _bind(database, "support", MONTH_START, None, now=MONTH_END + timedelta(days=3))
    december = _issue(database, acme, JANUARY)
    january = _issue(database, acme, FEBRUARY)
    assert [line.amount_minor for line in december.lines] == [2000, 9900, 9900]
    assert [line.amount_minor for line in january.lines] == [2000, 9900]


def test_a_contract_does_not_end_before_what_was_invoiced(
    database: Database, now: datetime
) -> None:
    acme = make_world(database, now).tenant()
    _issue(database, acme, MONTH_END)
    with database.transaction(Role.OPERATOR) as connection:
        bound = list_contracts(connection)[0]
        with pytest.raises(Conflict):
            end_contract(connection, bound.id, valid_until=MONTH_END - timedelta(days=15))
        assert end_contract(connection, bound.id, valid_until=MONTH_END).valid_until == MONTH_END


def test_late_usage_in_another_currency_is_not_settled_unbilled(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    world.plan(IN_EUROS)
    acme = world.tenant(plan=None)
    _bind(database, "euros", MONTH_START, MONTH_END, now=now)
    _bind(database, "standard", MONTH_END, None, now=now)
    assert _issue(database, acme, MONTH_END).invoice.currency == "EUR"
    late = usage_report(foreign_id="late", quantity=50_000_000, occurred_at=now)
    world.report(acme, late)
    assert _issue(database, acme, JANUARY).invoice.total_minor == 2000
    with database.transaction(Role.OPERATOR) as connection:
        waiting = changed_periods(connection, tenant_id=acme.id, before=JANUARY)
    assert waiting == [acme.billing_period(now)]


def test_a_second_currency_in_one_billing_period_is_refused_when_it_is_bound(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    world.plan(IN_EUROS)
    world.tenant(plan=None)
    middle = MONTH_START + timedelta(days=10)
    _bind(database, "euros", MONTH_START, middle, now=now)
    with pytest.raises(Conflict):
        _bind(database, "standard", middle, None, now=now)
    _bind(database, "standard", MONTH_END, None, now=now)


def test_the_residual_follows_the_order_of_numbers_not_of_clocks(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    world.use(acme, {"tokens.input": 12_000})
    _issue(database, acme, MONTH_END, now=FEBRUARY + timedelta(seconds=1))
    world = make_world(database, JANUARY)
    world.use(acme, {"tokens.input": 12_000}, occurred_at=MONTH_END)
    second = _issue(database, acme, JANUARY, now=FEBRUARY)
    third = _issue(database, acme, FEBRUARY, now=FEBRUARY + timedelta(seconds=2))
    assert second.invoice.residual_after == Decimal("0.0048") == third.invoice.residual_before
    books = Books(legal_entity_id=second.invoice.legal_entity_id, tenant_id=acme.id, currency="USD")
    with database.transaction(Role.OPERATOR) as connection:
        unbilled = ledger.balance(connection, books.account(AccountCode.UNBILLED))
    assert unbilled == third.invoice.residual_after
