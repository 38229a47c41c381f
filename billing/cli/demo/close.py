"""The demo's period close: outcomes, invoices, the Stripe mirror, a payment, the margin report."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from billing.cli.demo.scene import OUTCOME, Scene, cost_file
from billing.ledger.account import AccountCode
from billing.margin.report import GroupBy, MarginReport
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.ledger.verify_balances import verify_balances
from billing.operations.margin.costs import record_costs
from billing.operations.margin.report_margin import report_margin
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.outcomes.claims import confirm_outcome, report_outcome
from billing.operations.payments.mirror_invoice import enqueue_mirror, mirror_invoice
from billing.operations.payments.stripe_events import apply_event, catch_up
from billing.outcomes.claim import Actor
from billing.payments.client import open_client
from billing.store import ledger
from billing.store.database import Database, Role
from billing.store.ledger import LedgerTotals

SUBJECTS = ("T-1001", "T-1002", "T-1003")
CONFIRMED = 2
FAKE_STRIPE = "tests.fake_stripe.server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What the close produced.

    Attributes:
        stripe_minor: sum of the totals that the fake Stripe holds; None if it is not installed.
        paid: number of the invoice that its tenant paid.
        margins: the report by tenant and by model.
        ledger: balances by account code.
        rollup_differences: rollup rows that raw events contradict.
        balance_differences: balances of credit and receivables that are not what they come from.
    """

    invoices: tuple[InvoiceView, ...]
    outcomes: tuple[int, int]
    stripe_minor: int | None
    paid: str | None
    margins: dict[GroupBy, MarginReport]
    ledger: LedgerTotals
    rollup_differences: int
    balance_differences: int


def settle_outcomes(database: Database, scene: Scene, *, now: datetime) -> tuple[int, int]:
    """Report outcomes as the operator and confirm some as the tenant: (reported, confirmed)."""
    tenant = next(t for t in scene.tenants if t.slug == "bluefin")
    key_id = scene.keys[tenant.slug].id
    claims: list[UUID] = []
    for subject in SUBJECTS:
        with database.transaction(Role.OPERATOR) as connection:
            claim = report_outcome(
                connection,
                tenant=tenant,
                outcome=OUTCOME,
                subject=subject,
                occurred_at=now - timedelta(hours=1),
                actor=Actor.OPERATOR,
                key_id=key_id,
                now=now,
            )
        claims.append(claim.id)
    for claim_id in claims[:CONFIRMED]:
        with database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
            confirm_outcome(
                connection,
                tenant=tenant,
                claim_id=claim_id,
                actor=Actor.TENANT,
                key_id=key_id,
                now=now,
            )
    return len(SUBJECTS), CONFIRMED


def close_period(
    database: Database, scene: Scene, *, outcomes: tuple[int, int], now: datetime
) -> Closed:
    """Issue every invoice, mirror and pay at the fake Stripe, and report the margin.

    Args:
        now: the end of the period: the demo's clock is set forward to it.
    """
    numbers: list[str] = []
    for tenant in scene.tenants:
        with database.transaction(Role.OPERATOR) as connection:
            issued = issue_invoice(
                connection,
                tenant=tenant,
                period=scene.period,
                enqueue_mirror=enqueue_mirror,
                now=now,
            )
        numbers.append(str(issued.id))
    stripe_minor, paid = _mirror(database, numbers, now=now)
    with database.transaction(Role.OPERATOR) as connection:
        record_costs(connection, cost_file(scene.period), now=now)
    with database.transaction(Role.OPERATOR, snapshot=True) as connection:
        return Closed(
            invoices=tuple(require_invoice(connection, n, tenant_id=None) for n in numbers),
            outcomes=outcomes,
            stripe_minor=stripe_minor,
            paid=paid,
            margins={
                by: report_margin(connection, period=scene.period, group_by=by) for by in GroupBy
            },
            ledger=ledger.totals(connection),
            rollup_differences=len(verify_rollups(connection)),
            balance_differences=len(verify_balances(connection)),
        )


def _mirror(
    database: Database, invoice_ids: list[str], *, now: datetime
) -> tuple[int | None, str | None]:
    if find_spec("tests") is None or find_spec(FAKE_STRIPE) is None:
        return None, None
    # The fake belongs to the tests and is not installed; a checkout has it.
    fake: Any
    with import_module(FAKE_STRIPE).FakeStripe() as fake:
        with open_client(fake.api_key, fake.url) as client:
            stripe_ids = [
                mirror_invoice(database, client, UUID(invoice_id), now=now).stripe_id
                for invoice_id in invoice_ids
            ]
            fake.pay_invoice(stripe_ids[0])
            catch_up(database, client, since=now - timedelta(days=3), now=now)
            for event in fake.events():
                if event["type"].startswith("invoice.paid"):
                    apply_event(database, client, event["id"], now=now)
        total = sum(int(invoice["total"]) for invoice in fake.invoices())
    with database.transaction(Role.OPERATOR) as connection:
        paid = require_invoice(connection, invoice_ids[0], tenant_id=None).invoice.number
    return total, paid


def receivable_issued(closed: Closed) -> Decimal:
    """What invoices moved into receivables: what is open plus what was received."""
    codes = (AccountCode.RECEIVABLE, AccountCode.STRIPE_CLEARING, AccountCode.BANK)
    return sum((closed.ledger.get((code.value, "USD"), Decimal(0)) for code in codes), Decimal(0))
