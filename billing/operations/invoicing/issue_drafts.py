"""Turn drafts into numbered documents: number, due date, postings and the Stripe mirror, at once.

Decides nothing about what is on them. Credit notes take their numbers from the series of the
invoices, so that numbers tell the order of everything that moved a tenant's receivable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from billing.errors import UnratedUsage
from billing.invoicing.document_kind import DocumentKind
from billing.invoicing.invoice import InvoiceTotals, check_sums
from billing.invoicing.numbering import invoice_number
from billing.ledger.posting import Transaction
from billing.ledger.template import Books, credit_note_issued, invoice_issued
from billing.money import currency, from_minor
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.redeem_credits import redeem_credits
from billing.operations.invoicing.line_bases import Parts
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_usage import post_accruals
from billing.operations.rating.rate_period import RatedPeriod
from billing.operations.tenancy.tenants import require_legal_entity
from billing.store import invoices as store
from billing.store import ledger as ledger_store
from billing.store import payments as payment_store
from billing.store import tenancy as tenancy_store
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import LegalEntity, Tenant

EnqueueMirror = Callable[[sa.Connection, InvoiceRow], None]
"""Enqueues the mirroring of an invoice in the transaction that issues it."""


def post_rated(connection: sa.Connection, parts: Sequence[RatedPeriod], *, now: datetime) -> None:
    """Post what rated periods earned, and let credit pay for it, before they are drafted to issue.

    Raises:
        UnratedUsage: usage that no charge prices (R5).
    """
    for part in parts:
        _require_all_rated(part)
        post_accruals(connection, part, now=now)
        apply_credits(connection, tenant=part.tenant, period=part.period, now=now)


def issue_drafts(
    connection: sa.Connection,
    drafts: Sequence[InvoiceRow],
    parts: Parts,
    *,
    tenant: Tenant,
    enqueue_mirror: EnqueueMirror | None,
    now: datetime,
) -> tuple[InvoiceRow, ...]:
    """Issue drafts that were made in this transaction, in their order.

    Args:
        parts: what they were made of; payment is due as the contracts of the first say.
    """
    entity = require_legal_entity(connection, tenant.legal_entity)
    if not drafts:
        return ()
    _, first = next(parts.by_origin())
    terms_days = max(contract.bound.plan.payment_terms_days for contract in first.contracts)
    issued: list[InvoiceRow] = []
    for draft in drafts:
        if draft.kind == DocumentKind.CREDIT_NOTE:
            # It is owed by us, now.
            row = _issue(connection, draft, entity, due_minor=draft.total_minor, days=0, now=now)
        else:
            redeemed_minor = redeem_credits(
                connection,
                tenant=tenant,
                invoice=draft,
                periods=[part.period for part in parts.with_usage()],
                now=now,
            )
            row = _issue(
                connection,
                draft,
                entity,
                due_minor=draft.total_minor - redeemed_minor,
                days=terms_days,
                now=now,
            )
        if enqueue_mirror is not None and row.amount_due_minor > 0:
            payment_store.request_mirror(connection, row.id, tenant_id=tenant.id, now=now)
            enqueue_mirror(connection, row)
        issued.append(row)
    return tuple(issued)


def _require_all_rated(rated: RatedPeriod) -> None:
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
    entity: LegalEntity,
    *,
    due_minor: int,
    days: int,
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
    store.mark_issued(
        connection,
        draft.id,
        number=number,
        due_at=now + timedelta(days=days),
        amount_due_minor=due_minor,
        now=now,
    )
    if draft.total_minor:
        _post(connection, draft, entity, number=number, now=now)
    if draft.total_minor and not due_minor:
        store.mark_paid(connection, draft.id, now=now)
    issued = store.invoice(connection, draft.id)
    assert issued is not None
    return issued


def _post(
    connection: sa.Connection,
    draft: InvoiceRow,
    entity: LegalEntity,
    *,
    number: str,
    now: datetime,
) -> None:
    in_currency = currency(draft.currency)
    books = Books(legal_entity_id=entity.id, tenant_id=draft.tenant_id, currency=draft.currency)
    subtotal = from_minor(draft.subtotal_minor, in_currency)
    tax = from_minor(draft.tax_minor, in_currency)
    gives_back = draft.kind == DocumentKind.CREDIT_NOTE
    ledger_store.post(
        connection,
        Transaction(
            id=mint_id(now),
            legal_entity_id=entity.id,
            tenant_id=draft.tenant_id,
            kind="credit_note_issued" if gives_back else "invoice_issued",
            idempotency_key=f"invoice/{draft.id}",
            effective_at=now,
            postings=(
                credit_note_issued(books, subtotal=-subtotal, tax=-tax)
                if gives_back
                else invoice_issued(books, subtotal=subtotal, tax=tax)
            ),
            reference=number,
        ),
        now=now,
    )
