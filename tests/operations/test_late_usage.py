"""Usage that arrives after its period was invoiced: rated there, billed next, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.ledger.account import AccountCode
from billing.ledger.template import Books
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.store import ledger
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.world import make_world, usage_report

DECEMBER_END = datetime(2027, 1, 1, tzinfo=UTC)
JANUARY_END = datetime(2027, 2, 1, tzinfo=UTC)


def _issue(database: Database, tenant: Tenant, end: datetime) -> InvoiceView:
    period = tenant.billing_period(end - timedelta(days=1))
    with database.transaction(Role.OPERATOR) as connection:
        issued = issue_invoice(connection, tenant=tenant, period=period, now=end)
    with database.transaction(Role.OPERATOR) as connection:
        return require_invoice(connection, str(issued.id), tenant_id=None)


def test_R4_late_usage_yields_one_correction_line_and_then_none(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    world.use(acme, {"tokens.output": 900_000})
    november = _issue(database, acme, datetime(2026, 12, 1, tzinfo=UTC))
    assert [line.amount_minor for line in november.lines] == [2000, 72]

    # 300,000 more: 100,000 complete the first tier at 0.80, the rest is in the second at 0.60.
    late = usage_report(foreign_id="late", meter="tokens.output", quantity=300_000, occurred_at=now)
    assert [verdict.kind for verdict in world.report(acme, late)] == ["accepted"]
    december = _issue(database, acme, DECEMBER_END)
    january = _issue(database, acme, JANUARY_END)

    corrections = [line for line in december.lines if "Correction" in line.description]
    assert [line.amount_minor for line in corrections] == [20]
    assert corrections[0].key.endswith("output@2026-11-01")
    assert "2026-11-01" in corrections[0].description
    assert december.invoice.total_minor == 2020
    assert [line.amount_minor for line in january.lines] == [2000]

    with database.transaction(Role.OPERATOR) as connection:
        books = Books(
            legal_entity_id=january.invoice.legal_entity_id, tenant_id=acme.id, currency="USD"
        )
        unbilled = ledger.balance(connection, books.account(AccountCode.UNBILLED))
        revenue = ledger.balance(connection, books.account(AccountCode.REVENUE))
    assert unbilled == january.invoice.residual_after == Decimal(0)
    assert revenue == Decimal("-60.92")


def test_a_draft_does_not_settle_late_usage(database: Database, now: datetime) -> None:
    from billing.operations.invoicing.draft_invoice import draft_invoice

    world = make_world(database, now)
    acme = world.tenant()
    _issue(database, acme, datetime(2026, 12, 1, tzinfo=UTC))
    world.report(
        acme,
        usage_report(foreign_id="late", meter="tokens.input", quantity=5_000_000, occurred_at=now),
    )
    period = acme.billing_period(DECEMBER_END - timedelta(days=1))
    totals: list[int] = []
    for _ in range(2):
        with database.transaction(Role.OPERATOR) as connection:
            draft = draft_invoice(connection, tenant=acme, period=period, now=DECEMBER_END)
        totals.append(draft.total_minor)
    december = _issue(database, acme, DECEMBER_END)
    assert [*totals, december.invoice.total_minor] == [2100, 2100, 2100]
