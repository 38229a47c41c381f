"""Issue what changed in billing periods after their last invoice, without waiting for the next one.

Usage that came late, was voided or amended, contracts that were bound backwards, fees in advance
for a contract that ended before: the next invoice corrects all of it. Where none follows (the
contract ended), or the operator does not want to wait, this makes a document of corrections alone:
an invoice, a credit note, or both. Where nothing changed nothing is written (R4).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.invoicing.document_kind import DocumentKind
from billing.money import Currency
from billing.operations.invoicing.issue_drafts import EnqueueMirror, issue_drafts, post_rated
from billing.operations.invoicing.line_bases import Parts, currencies
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_advance import billed_for_nothing
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.store import invoices as store
from billing.store.changed_periods import changed_periods
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
    changed = changed_periods(connection, tenant_id=tenant.id, before=now)
    corrected = [
        rate_period(connection, tenant=tenant, period=period)
        for period in reversed(changed)
        # Of one that is not over, its own invoice is still to come.
        if period.end <= now
    ]
    unearned = billed_for_nothing(connection, tenant=tenant)
    found = {code: _currency(part) for part in (*corrected, *unearned) for code in currencies(part)}
    issued: list[InvoiceRow] = []
    for code, in_currency in sorted(found.items()):
        parts = Parts(
            corrected=tuple(part for part in corrected if code in currencies(part)),
            unearned=tuple(part for part in unearned if code in currencies(part)),
        )
        post_rated(connection, parts.with_usage(), now=now)
        drafts = store_drafts(
            connection,
            tenant=tenant,
            in_currency=in_currency,
            parts=parts,
            kind=DocumentKind.CORRECTION,
            now=now,
        )
        issued += issue_drafts(
            connection, drafts, parts, tenant=tenant, enqueue_mirror=enqueue_mirror, now=now
        )
    return tuple(issued)


def _currency(rated: RatedPeriod) -> Currency:
    # Binding refuses a second currency in one billing period.
    (in_currency,) = {contract.bound.contract.currency for contract in rated.contracts}
    return in_currency
