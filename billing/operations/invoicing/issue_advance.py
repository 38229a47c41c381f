"""Issue the fees in advance of a billing period that no invoice before it billed.

Such are those of a contract's first period: no invoice comes before it. Whoever does not ask for
this finds them on the period's own invoice.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict
from billing.invoicing.document_kind import DocumentKind
from billing.operations.invoicing.draft_invoice import invoice_currency
from billing.operations.invoicing.issue_drafts import EnqueueMirror, issue_drafts
from billing.operations.invoicing.line_bases import Parts
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_advance import rate_advance
from billing.period import Period
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


def issue_advance(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    period: Period,
    enqueue_mirror: EnqueueMirror | None = None,
    now: datetime,
) -> tuple[InvoiceRow, ...]:
    """Bill a running period's fees in advance, in the operator role's transaction.

    Returns:
        The invoice; nothing if there are no such fees, or if they are billed.

    Raises:
        Conflict: the period has not begun, or is over.
    """
    if now not in period:
        raise Conflict(
            "fees are billed in advance while their period runs",
            field="period",
            remedy="those of the next period are on the invoice before it",
        )
    store.lock_invoicing(connection, tenant.id)
    rated = rate_advance(connection, tenant=tenant, period=period)
    if not rated.contracts:
        return ()
    parts = Parts(ahead=(rated,))
    drafts = store_drafts(
        connection,
        tenant=tenant,
        in_currency=invoice_currency(rated),
        parts=parts,
        kind=DocumentKind.ADVANCE,
        now=now,
    )
    return issue_drafts(
        connection, drafts, parts, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now
    )
