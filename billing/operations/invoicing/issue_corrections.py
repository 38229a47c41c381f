"""Issue what changed in billing periods after their last invoice, without waiting for the next one.

Usage that came late, was voided or amended, contracts that were bound backwards: the next invoice
corrects all of it. Where none follows (the contract ended), or the operator does not want to wait,
this makes a document of corrections alone: an invoice, a credit note, or both. Where nothing
changed nothing is written (R4).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.operations.invoicing.issue_drafts import EnqueueMirror, issue_drafts, post_rated
from billing.operations.invoicing.line_bases import currencies
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


def issue_corrections(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    enqueue_mirror: EnqueueMirror | None = None,
    now: datetime,
) -> tuple[InvoiceRow, ...]:
    """Correct every invoiced period of a tenant, in the operator role's transaction.

    Returns:
        The documents issued, by currency the invoice before the credit note; empty where nothing
        is due in either direction.

    Raises:
        UnratedUsage: usage that no charge prices (R5); nothing is written.
    """
    store.lock_invoicing(connection, tenant.id)
    by_currency: dict[str, list[RatedPeriod]] = {}
    changed = store.changed_periods(connection, tenant_id=tenant.id, before=now)
    for period in reversed(changed):
        if period.end > now:
            # Its own invoice is still to come.
            continue
        rated = rate_period(connection, tenant=tenant, period=period)
        codes = currencies(rated)
        # Binding refuses a second currency in one billing period.
        assert len(codes) <= 1, codes
        for code in codes:
            by_currency.setdefault(code, []).append(rated)
    issued: list[InvoiceRow] = []
    for _, parts in sorted(by_currency.items()):
        post_rated(connection, parts, now=now)
        drafts = store_drafts(
            connection,
            tenant=tenant,
            in_currency=parts[0].contracts[0].bound.contract.currency,
            own=None,
            corrected=parts,
            now=now,
        )
        issued += issue_drafts(
            connection, drafts, parts, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now
        )
    return tuple(issued)
