"""What is sent to Stripe and what comes back, as values.

Decides which invoices can be mirrored at all. An invoice of zero is mirrored like any other (its
customer gets the document, Stripe marks it paid, no money moves); a negative one or one without
lines never reaches Stripe, since invoicing issues credit notes instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import stripe

from billing.errors import AmountOutOfRange, InvalidInput, PaymentMismatch
from billing.money import CURRENCIES, Currency
from billing.payments.instant import from_stripe, require_aware

LINES_MAX = 250
#: Stripe charges at most eight digits; what is larger is for a bank transfer and for a person.
AMOUNT_MAX_MINOR = 99_999_999
LINE_KEY_LENGTH_MAX = 500
DESCRIPTION_LENGTH_MAX = 5_000

#: Names of our metadata on Stripe's objects: how an object is found again when its id was lost.
TENANT_ID = "tenant_id"
INVOICE_ID = "invoice_id"
INVOICE_NUMBER = "invoice_number"
LINE_KEY = "line_key"


class InvoiceStatus(StrEnum):
    """Stripe's life of an invoice. `paid` does not mean that money came: read the amounts."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorCustomer:
    """The bill-to of invoices. `email` may be absent: Stripe then sends nothing."""

    tenant_id: str
    name: str
    email: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorLine:
    """One invoice line: the rounded amount is final, quantity and price stand in the text.

    Attributes:
        key: stable key of the rated line, unique in the invoice.
        amount_minor: minor units, negative for corrections.
    """

    key: str
    description: str
    amount_minor: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= LINE_KEY_LENGTH_MAX:
            raise InvalidInput("a line key has 1 to 500 characters", field="lines.key")
        if not 1 <= len(self.description) <= DESCRIPTION_LENGTH_MAX:
            raise InvalidInput(
                "a line description has 1 to 5000 characters", field="lines.description"
            )
        _check_amount(self.amount_minor, "lines.amount_minor")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorInvoice:
    """An issued invoice as Stripe is to show it.

    Attributes:
        id: our invoice id; number: ours, Stripe has a series of its own.
        total_minor: what the lines must add up to, here and at Stripe.
        due_at: aware; in the past means due on receipt.
    """

    id: str
    number: str
    currency: Currency
    lines: tuple[MirrorLine, ...]
    total_minor: int
    due_at: datetime

    def __post_init__(self) -> None:
        require_aware(self.due_at, "due_at")
        if not 1 <= len(self.lines) <= LINES_MAX:
            raise InvalidInput(
                "Stripe takes 1 to 250 lines on an invoice",
                field="lines",
                remedy="aggregate lines; the detail belongs on our own statement",
            )
        if sum(line.amount_minor for line in self.lines) != self.total_minor:
            raise PaymentMismatch("the lines do not add up to the total", field="total_minor")
        if len({line.key for line in self.lines}) != len(self.lines):
            raise InvalidInput("two lines have one key", field="lines.key")
        if self.total_minor < 0:
            raise InvalidInput(
                "a negative invoice is not mirrored",
                field="total_minor",
                remedy="issue a credit note",
            )
        _check_amount(self.total_minor, "total_minor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Which try this is.

    Attributes:
        epoch: part of every idempotency key; see classification.next_epoch.
        first_tried_at: when the first attempt on this object began, stored *before* it began;
            None if there was none. Any later attempt looks before it creates, because Stripe may
            forget a key after a day.
    """

    epoch: int = 0
    first_tried_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredInvoice:
    """An invoice as Stripe has it now. Amounts are minor units of `currency`.

    Attributes:
        invoice_id: ours, from the metadata; None if somebody else made this invoice.
        number: Stripe's own, once finalised.
        amount_paid_minor: the only figure to post as cash. A small total moves to the customer's
            balance: status `paid`, nothing paid, and the next invoice's amount due includes it
            (starting_balance_minor > 0).
        paid_off_stripe_minor: the part of it that was recorded as paid elsewhere.
    """

    stripe_id: str
    customer_id: str
    invoice_id: str | None
    status: InvoiceStatus
    number: str | None
    currency: Currency
    total_minor: int
    amount_due_minor: int
    amount_paid_minor: int
    amount_remaining_minor: int
    paid_off_stripe_minor: int
    starting_balance_minor: int
    ending_balance_minor: int | None
    hosted_url: str | None
    paid_at: datetime | None


def read_invoice(invoice: stripe.Invoice) -> MirroredInvoice:
    """Our value of the SDK's object; raises PaymentMismatch for a currency that we do not keep."""
    currency = CURRENCIES.get(invoice.currency.upper())
    if currency is None:
        raise PaymentMismatch("an invoice at Stripe is in a currency that is not ours")
    customer: Any = invoice.customer
    paid_at = invoice.status_transitions.paid_at
    return MirroredInvoice(
        stripe_id=invoice.id,
        customer_id=customer if isinstance(customer, str) else customer.id,
        invoice_id=metadata_text(invoice.metadata, INVOICE_ID),
        status=InvoiceStatus(invoice.status or "draft"),
        number=invoice.number,
        currency=currency,
        total_minor=invoice.total,
        amount_due_minor=invoice.amount_due,
        amount_paid_minor=invoice.amount_paid,
        amount_remaining_minor=invoice.amount_remaining,
        paid_off_stripe_minor=invoice.amount_paid_off_stripe or 0,
        starting_balance_minor=invoice.starting_balance,
        ending_balance_minor=invoice.ending_balance,
        hosted_url=invoice.hosted_invoice_url,
        paid_at=from_stripe(paid_at) if paid_at is not None else None,
    )


def metadata_text(metadata: stripe.StripeObject | None, name: str) -> str | None:
    """One of our marks on a Stripe object, or None if it is not ours."""
    return str(metadata[name]) if metadata is not None and name in metadata else None


def _check_amount(amount_minor: int, field: str) -> None:
    if abs(amount_minor) > AMOUNT_MAX_MINOR:
        raise AmountOutOfRange(
            "Stripe cannot collect this amount",
            field=field,
            remedy="collect by bank transfer",
        )
