"""Invoice a running billing period so far, where its plan says from which amount on.

Each such invoice has its own ordinal and bills, line by line, the rounded total so far less what
those before it billed; the invoice that closes the period bills the rest in the same way, with
minimums and commitments. So all of them come to what one invoice at the end would.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.catalog.price_plan import PricePlan
from billing.invoicing.document_kind import DocumentKind
from billing.invoicing.invoice import due_on_line
from billing.money import Currency, from_minor
from billing.operations.invoicing.draft_invoice import invoice_currency
from billing.operations.invoicing.issue_drafts import EnqueueMirror, issue_drafts, post_rated
from billing.operations.invoicing.line_bases import Parts, groups_of
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


def progressive_threshold(rated: RatedPeriod) -> Decimal | None:
    """The lowest amount at which a contract of a period asks for an invoice; None if none does."""
    return lowest_threshold(contract.bound.plan for contract in rated.contracts)


def lowest_threshold(plans: Iterable[PricePlan]) -> Decimal | None:
    """The lowest amount at which a plan asks for an invoice on the way; None if none does."""
    asked = [plan.progressive.threshold for plan in plans if plan.progressive is not None]
    return min(asked, default=None)


def issue_progressive(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    enqueue_mirror: EnqueueMirror | None = None,
    now: datetime,
) -> InvoiceRow | None:
    """Invoice the running billing period so far if it is time, in the operator's transaction.

    Returns:
        The invoice; None where no plan asks for one, or less than its threshold is not invoiced.

    Raises:
        UnratedUsage: usage that no charge prices (R5); nothing is written.
    """
    store.lock_invoicing(connection, tenant.id)
    rated = rate_period(connection, tenant=tenant, period=tenant.billing_period(now), until=now)
    threshold = progressive_threshold(rated)
    if threshold is None:
        return None
    in_currency = invoice_currency(rated)
    if from_minor(_not_invoiced(connection, rated, in_currency), in_currency) < threshold:
        return None
    parts = Parts(own=rated)
    post_rated(connection, parts.with_usage(), now=now)
    drafts = store_drafts(
        connection,
        tenant=tenant,
        in_currency=in_currency,
        parts=parts,
        kind=DocumentKind.PROGRESSIVE,
        now=now,
    )
    return issue_drafts(
        connection, drafts, parts, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now
    )[0]


def _not_invoiced(connection: sa.Connection, rated: RatedPeriod, in_currency: Currency) -> int:
    """Minor units that an invoice of now would bill, less what credit has paid."""
    return sum(
        due_on_line(entry.basis.exact, entry.basis.invoiced_minor, in_currency)
        for group in groups_of(connection, Parts(own=rated))
        for entry in group.bases
    )
