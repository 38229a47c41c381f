"""Draft the invoice of a billing period: rated lines, sums, residual, and all inputs with it.

A draft shows the credit that was applied by then; issuing applies what is left to apply. Drafting
again takes a new watermark and replaces the draft; an issued invoice is returned as it is (I2).
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.money import Currency
from billing.operations.invoicing.line_bases import Parts, currencies, rated_again
from billing.operations.invoicing.store_drafts import store_drafts
from billing.operations.rating.rate_advance import billed_for_nothing, rate_advance
from billing.operations.rating.rate_period import RatedPeriod, rate_period
from billing.operations.tenancy.tenants import require_legal_entity
from billing.period import Period
from billing.store import invoices as store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant


def draft_invoice(
    connection: sa.Connection, *, tenant: Tenant, period: Period, now: datetime
) -> InvoiceRow:
    """Draft the invoice of a tenant's billing period, in the operator role's transaction.

    Corrections that an invoice cannot carry are drafted beside it, as a credit note.

    Raises:
        NotFound: no contract was in force in the period.
        Conflict: contracts in more than one currency.
    """
    store.lock_invoicing(connection, tenant.id)
    rated = rate_period(connection, tenant=tenant, period=period, until=now)
    issued = _issued(connection, rated)
    if issued is not None:
        return issued
    return store_drafts(
        connection,
        tenant=tenant,
        in_currency=invoice_currency(rated),
        parts=parts_of(connection, rated),
        now=now,
    )[0]


def parts_of(connection: sa.Connection, rated: RatedPeriod) -> Parts:
    """What a period's invoice is made of: itself, what earlier ones lack, fees in advance.

    Fees of the next period in another currency are left for an invoice in theirs.
    """
    tenant = rated.tenant
    following = rate_advance(
        connection, tenant=tenant, period=tenant.billing_period(rated.period.end)
    )
    beside = [following, *billed_for_nothing(connection, tenant=tenant)]
    ahead, *unearned = [(part,) if currencies(part) <= currencies(rated) else () for part in beside]
    return Parts(
        own=rated,
        corrected=tuple(rated_again(connection, rated)),
        ahead=ahead,
        unearned=tuple(part for parts in unearned for part in parts),
    )


def invoice_currency(rated: RatedPeriod) -> Currency:
    """The currency of a rated period's invoice.

    Raises:
        NotFound: no contract was in force.
        Conflict: contracts in more than one currency.
    """
    codes = currencies(rated)
    if not codes:
        raise NotFound(
            "no contract was in force in this period",
            field="period",
            remedy="bind the tenant to a plan, choose another period, or issue the corrections of "
            "earlier ones",
        )
    if len(codes) > 1:
        raise Conflict(
            "contracts of this period are in more than one currency",
            field="currency",
            remedy="end all but those of one currency",
        )
    return rated.contracts[0].bound.contract.currency


def _issued(connection: sa.Connection, rated: RatedPeriod) -> InvoiceRow | None:
    entity = require_legal_entity(connection, rated.tenant.legal_entity)
    existing = store.period_invoice(
        connection,
        tenant_id=rated.tenant.id,
        legal_entity_id=entity.id,
        currency=invoice_currency(rated).code,
        period_start=rated.period.start,
    )
    return existing if existing is not None and existing.state != "draft" else None
