"""Issue the invoice of a billing period: number, due date, postings and the Stripe mirror, at once.

Everything commits together or not at all: accruals up to the watermark, the credit that pays them,
the invoice's number (no gaps), the receivable, the paid credit that is redeemed on it, the credit
note of corrections that it cannot carry, and the job that mirrors it. A second run, or one that
races, returns the invoice that exists (I2).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict
from billing.operations.invoicing.draft_invoice import invoice_currency, parts_of
from billing.operations.invoicing.issue_drafts import EnqueueMirror, issue_drafts, post_rated
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_period import rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


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
        Conflict: the period is not over.
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
    in_currency = invoice_currency(rated)
    existing = store.period_invoice(
        connection,
        tenant_id=tenant.id,
        legal_entity_id=entity.id,
        currency=in_currency.code,
        period_start=period.start,
    )
    if existing is not None and existing.state != "draft":
        return existing
    parts = parts_of(connection, rated)
    post_rated(connection, parts.with_usage(), now=now)
    drafts = store_drafts(
        connection,
        tenant=tenant,
        in_currency=in_currency,
        parts=parts,
        now=now,
    )
    return issue_drafts(
        connection, drafts, parts, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now
    )[0]
