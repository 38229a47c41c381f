"""A month of a small operator: usage to invoice to ledger, to the last decimal."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pytest

from billing.errors import UnratedUsage
from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.rating.accrue_usage import accrue_usage
from billing.store import ledger
from billing.store.database import Database, Role
from tests.world import MONTH_END, make_world


def test_a_month_ties_from_tokens_to_receivable(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    world.use(acme, {"tokens.input": 1_234_567, "tokens.output": 1_500_001})
    period = acme.billing_period(now)

    with database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=acme, period=period, now=now)
    world.use(acme, {"tokens.input": 1, "tokens.cached_input": 10})
    with database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
    with database.transaction(Role.OPERATOR) as connection:
        view = require_invoice(connection, str(issued.number), tenant_id=None)
        books = Books(legal_entity_id=issued.legal_entity_id, tenant_id=acme.id, currency="USD")
        balances = {
            code: ledger.balance(connection, books.account(code))
            for code in (AccountCode.UNBILLED, AccountCode.RECEIVABLE, AccountCode.REVENUE)
        }

    # 1,234,568 x 0.20/1e6 = 0.2469136; 1,000,000 x 0.80/1e6 + 500,001 x 0.60/1e6 = 1.1000006;
    # 10 x 0.05/1e6 = 0.0000005; platform 20.
    assert [line.amount_minor for line in view.lines] == [2000, 25, 110]
    assert issued.number == "INV-000001"
    assert issued.total_minor == 2135
    assert balances[AccountCode.REVENUE] == Decimal("-21.3469147")
    assert balances[AccountCode.RECEIVABLE] == Decimal("21.35")
    assert balances[AccountCode.UNBILLED] == Decimal("-0.0030853") == issued.residual_after


def test_R5_unpriced_usage_blocks_the_invoice_and_writes_nothing(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    world.use(acme, {"tokens.input": 5}, model="unheard-of")
    period = acme.billing_period(now)

    with database.transaction(Role.OPERATOR) as connection:
        before = ledger.totals(connection)
    with pytest.raises(UnratedUsage), database.transaction(Role.OPERATOR) as connection:
        issue_invoice(connection, tenant=acme, period=period, now=MONTH_END)
    with database.transaction(Role.OPERATOR) as connection:
        assert ledger.totals(connection) == before == {}


def test_I2_a_second_run_returns_the_same_invoice(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    period = acme.billing_period(now)
    issued = []
    for _ in range(2):
        with database.transaction(Role.OPERATOR) as connection:
            issued.append(issue_invoice(connection, tenant=acme, period=period, now=MONTH_END))
    assert issued[0] == issued[1]
