"""Issue the invoice of a billing period: number, due date, postings and the Stripe mirror, at once.

Everything commits together or not at all: accruals up to the watermark, the credit that pays them,
the invoice's number (no gaps), the receivable, the paid credit that is redeemed on it, and the job
that mirrors it. A second run, or one
that races, returns the invoice that exists (I2).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from billing.errors import Conflict, UnratedUsage
from billing.invoicing.invoice import InvoiceTotals, check_sums
from billing.invoicing.numbering import invoice_number
from billing.ledger.posting import Transaction
from billing.ledger.template import Books, invoice_issued
from billing.money import currency, from_minor
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.redeem_credits import redeem_credits
from billing.operations.invoicing.draft_invoice import invoice_currency, store_draft
from billing.operations.invoicing.line_bases import rated_again
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_usage import post_accruals
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.store import invoices as store
from billing.store import ledger as ledger_store
from billing.store import payments as payment_store
from billing.store import tenancy as tenancy_store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import LegalEntity, Tenant

EnqueueMirror = Callable[[sa.Connection, InvoiceRow], None]
"""Enqueues the mirroring of an invoice in the transaction that issues it."""


def issue_invoice(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    enqueue_mirror: EnqueueMirror | None = None,
    now: datetime,
) -> InvoiceRow:
    """Issue a billing period's invoice, in the operator role's transaction.

    Args:
        enqueue_mirror: how the Stripe mirror is asked for; None where Stripe is not configured.

    Raises:
        Conflict: the period is not over, or lines sum below zero.
        NotFound: no contract was in force.
        UnratedUsage: usage that no charge prices (R5); nothing is written.
    """
    if now < period.end:
        raise Conflict(
            "the billing period is not over", field="period", remedy="issue it after its end"
        )
    store.lock_invoicing(connection, tenant.id)
    entity = require_legal_entity(connection, tenant.legal_entity)
    rated = rate_period(connection, tenant=tenant, period=period)
    existing = store.period_invoice(
        connection,
        tenant_id=tenant.id,
        legal_entity_id=entity.id,
        currency=invoice_currency(rated).code,
        period_start=period.start,
    )
    if existing is not None and existing.state != "draft":
        return existing
    corrected = rated_again(connection, rated)
    for part in (rated, *corrected):
        require_all_rated(part)
        post_accruals(connection, part, now=now)
        apply_credits(connection, tenant=tenant, period=part.period, now=now)
    draft = store_draft(connection, rated, corrected, now=now)
    redeemed_minor = redeem_credits(
        connection,
        tenant=tenant,
        invoice=draft,
        periods=[part.period for part in (rated, *corrected)],
        now=now,
    )
    due_minor = draft.total_minor - redeemed_minor
    issued = _issue(connection, draft, rated, entity, due_minor=due_minor, now=now)
    if enqueue_mirror is not None and issued.amount_due_minor > 0:
        payment_store.request_mirror(connection, issued.id, tenant_id=tenant.id, now=now)
        enqueue_mirror(connection, issued)
    return issued


def require_all_rated(rated: RatedPeriod) -> None:
    """Check R5 before an invoice is issued.

    Raises:
        UnratedUsage: usage that no charge prices.
    """
    if rated.unrated:
        worst = rated.unrated[0]
        model = f" of model {worst.model}" if worst.model else ""
        raise UnratedUsage(
            f"{len(rated.unrated)} quantities have no price, first {worst.meter}{model}",
            field="unrated",
            remedy="bind a contract that prices them, or see `steelyard usage unrated`",
        )


def _issue(
    connection: sa.Connection,
    draft: InvoiceRow,
    rated: RatedPeriod,
    entity: LegalEntity,
    *,
    due_minor: int,
    now: datetime,
) -> InvoiceRow:
    check_sums(
        [line.amount_minor for line in store.lines(connection, draft.id)],
        InvoiceTotals(
            subtotal_minor=draft.subtotal_minor,
            tax_minor=draft.tax_minor,
            total_minor=draft.total_minor,
            amount_due_minor=due_minor,
        ),
    )
    prefix, ordinal = tenancy_store.next_number(connection, entity.id, "invoice")
    number = invoice_number(prefix, ordinal)
    terms_days = max(contract.bound.plan.payment_terms_days for contract in rated.contracts)
    store.mark_issued(
        connection,
        draft.id,
        number=number,
        due_at=now + timedelta(days=terms_days),
        amount_due_minor=due_minor,
        now=now,
    )
    if draft.total_minor:
        in_currency = currency(draft.currency)
        books = Books(legal_entity_id=entity.id, tenant_id=draft.tenant_id, currency=draft.currency)
        ledger_store.post(
            connection,
            Transaction(
                id=mint_id(now),
                legal_entity_id=entity.id,
                tenant_id=draft.tenant_id,
                kind="invoice_issued",
                idempotency_key=f"invoice/{draft.id}",
                effective_at=now,
                postings=invoice_issued(
                    books,
                    subtotal=from_minor(draft.subtotal_minor, in_currency),
                    tax=from_minor(draft.tax_minor, in_currency),
                ),
                reference=number,
            ),
            now=now,
        )
    if draft.total_minor and not due_minor:
        store.mark_paid(connection, draft.id, now=now)
    issued = store.invoice(connection, draft.id)
    assert issued is not None
    return issued
