"""Post money that was received for an invoice, once."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict, InvalidInput
from billing.ledger.account import AccountCode
from billing.ledger.cash_template import payment_received
from billing.ledger.posting import Transaction
from billing.ledger.template import Books
from billing.money import currency, from_minor, to_minor
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.minting import mint_id
from billing.store import invoices as invoice_store
from billing.store import ledger as store
from billing.store.invoices import InvoiceRow

KIND = "payment_received"


def receive_payment(
    connection: sa.Connection,
    *,
    invoice: str,
    amount_minor: int | None,
    into: AccountCode,
    idempotency_key: str,
    now: datetime,
) -> InvoiceRow:
    """Post a payment for an issued invoice; the same key posts once (L3).

    The invoice is `paid` once nothing of what is due is open.

    Args:
        invoice: id or number.
        amount_minor: minor units of the invoice's currency, above zero; None: all that is open.
        into: Stripe clearing or bank.

    Raises:
        NotFound: no such invoice.
        Conflict: it is a draft, nothing is open, or the payment exceeds what is open.
        IdempotencyConflict: the key was used for another payment.
    """
    head = require_invoice(connection, invoice, tenant_id=None).invoice
    if head.number is None:
        raise Conflict("a draft cannot be paid", field="invoice", remedy="issue it first")
    if amount_minor is not None and amount_minor <= 0:
        raise InvalidInput(
            "a payment is above zero", field="amount", remedy="use what was received"
        )
    invoice_store.lock_invoicing(connection, head.tenant_id)
    key = f"payment/{idempotency_key}"
    if amount_minor is None:
        if store.is_posted(connection, head.legal_entity_id, key):
            # All that was open then: by now it is not, and a repetition changes nothing.
            return require_invoice(connection, str(head.id), tenant_id=None).invoice
        amount_minor = _require_open(connection, head)
    posted = store.post(
        connection, _received(head, amount_minor, into=into, key=key, now=now), now=now
    )
    left = open_minor(connection, head)
    if posted and left < 0:
        raise Conflict(
            "the payment exceeds what is open", field="amount", remedy="check the invoice"
        )
    if left == 0:
        invoice_store.mark_paid(connection, head.id, now=now)
    return require_invoice(connection, str(head.id), tenant_id=None).invoice


def open_minor(connection: sa.Connection, head: InvoiceRow) -> int:
    """What is due on an invoice and was not received yet, in minor units."""
    return head.amount_due_minor + _moved_minor(connection, head, AccountCode.RECEIVABLE)


def paid_into_minor(connection: sa.Connection, head: InvoiceRow, into: AccountCode) -> int:
    """What was received for an invoice on one account, Stripe clearing or bank, in minor units."""
    return _moved_minor(connection, head, into)


def _require_open(connection: sa.Connection, head: InvoiceRow) -> int:
    found = open_minor(connection, head)
    if found <= 0:
        remedy = "see what was paid: steelyard invoice show"
        raise Conflict("nothing is open on this invoice", field="invoice", remedy=remedy)
    return found


def _received(
    head: InvoiceRow, amount_minor: int, *, into: AccountCode, key: str, now: datetime
) -> Transaction:
    books = Books(
        legal_entity_id=head.legal_entity_id, tenant_id=head.tenant_id, currency=head.currency
    )
    amount = from_minor(amount_minor, currency(head.currency))
    return Transaction(
        id=mint_id(now),
        legal_entity_id=head.legal_entity_id,
        tenant_id=head.tenant_id,
        kind=KIND,
        idempotency_key=key,
        effective_at=now,
        postings=payment_received(books, amount=amount, into=into),
        reference=head.number or "",
    )


def _moved_minor(connection: sa.Connection, head: InvoiceRow, code: AccountCode) -> int:
    moved = store.moved_for(
        connection,
        legal_entity_id=head.legal_entity_id,
        reference=head.number or "",
        kind=KIND,
        code=code,
    )
    return to_minor(moved, currency(head.currency))
