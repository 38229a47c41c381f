"""The steps that bring one issued invoice to Stripe, each safe to repeat.

Decides parameters, idempotency keys and what to look up before a second attempt. The order of the
steps, when to try again and what is stored between them is decided by the operation that drives
them:

    customer = ensure_customer(...)          # store its id
    mirrored = ensure_invoice(...)           # store its id
    mirrored = add_lines(...)                # no-op once all lines are there
    check_totals(invoice, mirrored)
    mirrored = finalize(...)                 # no-op once finalised

A first attempt costs one request a step; a later one first asks Stripe what is there. Two attempts
on one invoice must not run at the same time: the driver locks its row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import stripe

from billing.errors import PaymentMismatch
from billing.payments.classification import stripe_errors
from billing.payments.instant import to_stripe
from billing.payments.mirrored import (
    INVOICE_ID,
    INVOICE_NUMBER,
    LINE_KEY,
    TENANT_ID,
    Attempt,
    InvoiceStatus,
    MirrorCustomer,
    MirroredInvoice,
    MirrorInvoice,
    MirrorLine,
    metadata_text,
    read_invoice,
)

if TYPE_CHECKING:
    from stripe.params import CustomerCreateParams, InvoiceAddLinesParamsLine, InvoiceCreateParams

LINES_PER_REQUEST = 100
PAGE = 100
#: Stripe's clock and ours may differ: look this far behind our own note of the first attempt.
CLOCK_SLACK = timedelta(hours=1)
#: A due date must still lie ahead when Stripe reads it.
DUE_MARGIN = timedelta(minutes=10)


def ensure_customer(client: stripe.StripeClient, customer: MirrorCustomer, attempt: Attempt) -> str:
    """Id of the tenant's customer at Stripe, made if need be.

    Raises StripeUnavailable, StripeRefused; PaymentMismatch if Stripe holds two of this tenant.
    """
    if attempt.first_tried_at is not None:
        known = look_up_customer(
            client, tenant_id=customer.tenant_id, created_since=attempt.first_tried_at
        )
        if known is not None:
            return known
    params: CustomerCreateParams = {
        "name": customer.name,
        "metadata": {TENANT_ID: customer.tenant_id},
    }
    if customer.email is not None:
        params["email"] = customer.email
    key = f"customer:{customer.tenant_id}:create:{attempt.epoch}"
    with stripe_errors():
        return client.v1.customers.create(params, {"idempotency_key": key}).id


def look_up_customer(
    client: stripe.StripeClient, *, tenant_id: str, created_since: datetime
) -> str | None:
    """Id of the customer that carries the tenant's id, among those made since then."""
    since = to_stripe(created_since - CLOCK_SLACK)
    with stripe_errors():
        listed = client.v1.customers.list({"created": {"gte": since}, "limit": PAGE})
        found = [
            customer.id
            for customer in listed.auto_paging_iter()
            if metadata_text(customer.metadata, TENANT_ID) == tenant_id
        ]
    if len(found) > 1:
        raise PaymentMismatch(
            "Stripe holds two customers of one tenant", remedy="delete the one without invoices"
        )
    return found[0] if found else None


def ensure_invoice(
    client: stripe.StripeClient,
    invoice: MirrorInvoice,
    *,
    customer_id: str,
    attempt: Attempt,
    now: datetime,
) -> MirroredInvoice:
    """The draft of this invoice at Stripe, made if need be; or what has become of it.

    The draft is empty, does nothing by itself (auto_advance off, pending items excluded) and
    carries our id and number.

    Raises StripeUnavailable, StripeRefused, PaymentMismatch.
    """
    if attempt.first_tried_at is not None:
        known = look_up_invoice(client, invoice_id=invoice.id, customer_id=customer_id)
        if known is not None:
            return known
    params: InvoiceCreateParams = {
        "customer": customer_id,
        "currency": invoice.currency.code.lower(),
        "collection_method": "send_invoice",
        "auto_advance": False,
        "pending_invoice_items_behavior": "exclude",
        "custom_fields": [{"name": "Invoice number", "value": invoice.number}],
        "metadata": {INVOICE_ID: invoice.id, INVOICE_NUMBER: invoice.number},
    }
    if invoice.due_at > now + DUE_MARGIN:
        params["due_date"] = to_stripe(invoice.due_at)
    else:
        params["days_until_due"] = 0
    key = _key(invoice, "create", attempt)
    with stripe_errors():
        return read_invoice(client.v1.invoices.create(params, {"idempotency_key": key}))


def look_up_invoice(
    client: stripe.StripeClient, *, invoice_id: str, customer_id: str
) -> MirroredInvoice | None:
    """The customer's invoice that carries our id, or None.

    By list, never by search: search does not show what was written a moment ago.

    Raises PaymentMismatch if there are two.
    """
    with stripe_errors():
        listed = client.v1.invoices.list({"customer": customer_id, "limit": PAGE})
        found = [
            invoice
            for invoice in listed.auto_paging_iter()
            if metadata_text(invoice.metadata, INVOICE_ID) == invoice_id
        ]
    if len(found) > 1:
        raise PaymentMismatch(
            "Stripe holds two invoices for one of ours", remedy="void or delete one of them"
        )
    return read_invoice(found[0]) if found else None


def retrieve_invoice(client: stripe.StripeClient, stripe_id: str) -> MirroredInvoice:
    """The invoice as it is now: what a webhook only hints at."""
    with stripe_errors():
        return read_invoice(client.v1.invoices.retrieve(stripe_id))


def add_lines(
    client: stripe.StripeClient,
    invoice: MirrorInvoice,
    mirrored: MirroredInvoice,
    attempt: Attempt,
    *,
    per_request: int = LINES_PER_REQUEST,
) -> MirroredInvoice:
    """Push the lines that Stripe does not hold yet; returns the invoice afterwards.

    Raises StripeUnavailable, StripeRefused; PaymentMismatch if lines are missing on an invoice that
    is no longer a draft, or if Stripe holds a line that is not ours or differs.
    """
    held: set[str] = set()
    if attempt.first_tried_at is not None or mirrored.status is not InvoiceStatus.DRAFT:
        held = _held_keys(client, invoice, mirrored)
    for start in range(0, len(invoice.lines), per_request):
        batch = invoice.lines[start : start + per_request]
        missing = [line for line in batch if line.key not in held]
        if not missing:
            continue
        if mirrored.status is not InvoiceStatus.DRAFT:
            raise PaymentMismatch("the invoice was finalised at Stripe without all its lines")
        key = _key(invoice, f"lines-{start}", attempt)
        with stripe_errors():
            mirrored = read_invoice(
                client.v1.invoices.add_lines(
                    mirrored.stripe_id,
                    {"lines": [_line_params(line) for line in missing]},
                    {"idempotency_key": key},
                )
            )
    return mirrored


def check_totals(invoice: MirrorInvoice, mirrored: MirroredInvoice) -> None:
    """Raises PaymentMismatch unless Stripe's invoice is ours to the minor unit (I1)."""
    if mirrored.invoice_id != invoice.id:
        raise PaymentMismatch("the invoice at Stripe belongs to another of ours")
    if mirrored.currency != invoice.currency:
        raise PaymentMismatch("the invoice at Stripe is in another currency")
    if mirrored.total_minor != invoice.total_minor:
        raise PaymentMismatch(
            "the total at Stripe differs from ours",
            field="total_minor",
            remedy="delete the draft at Stripe, then retry",
        )


def finalize(
    client: stripe.StripeClient,
    invoice: MirrorInvoice,
    mirrored: MirroredInvoice,
    attempt: Attempt,
) -> MirroredInvoice:
    """Finalise the draft: it gets Stripe's number and its payment page. Not undoable.

    Returns the invoice as it is if it is no draft any more.
    Raises StripeUnavailable, StripeRefused; PaymentMismatch, before anything is done, if the totals
    differ.
    """
    check_totals(invoice, mirrored)
    if mirrored.status is not InvoiceStatus.DRAFT:
        return mirrored
    key = _key(invoice, "finalize", attempt)
    with stripe_errors():
        finalized = client.v1.invoices.finalize_invoice(
            mirrored.stripe_id, {"auto_advance": False}, {"idempotency_key": key}
        )
    return read_invoice(finalized)


def _held_keys(
    client: stripe.StripeClient, invoice: MirrorInvoice, mirrored: MirroredInvoice
) -> set[str]:
    """Keys of the lines that Stripe holds; raises PaymentMismatch where they are not ours."""
    ours = {line.key: line.amount_minor for line in invoice.lines}
    held: set[str] = set()
    with stripe_errors():
        listed = client.v1.invoices.line_items.list(mirrored.stripe_id, {"limit": PAGE})
        for line in listed.auto_paging_iter():
            key = metadata_text(line.metadata, LINE_KEY)
            if key is None or key in held or ours.get(key) != line.amount:
                raise PaymentMismatch(
                    "the invoice at Stripe holds a line that is not ours, twice or changed",
                    field="lines",
                    remedy="delete the draft at Stripe, then retry",
                )
            held.add(key)
    return held


def _line_params(line: MirrorLine) -> InvoiceAddLinesParamsLine:
    """An amount, never a unit price: Stripe must not compute what we have rounded."""
    return {
        "amount": line.amount_minor,
        "description": line.description,
        "metadata": {LINE_KEY: line.key},
    }


def _key(invoice: MirrorInvoice, step: str, attempt: Attempt) -> str:
    return f"invoice:{invoice.id}:{step}:{attempt.epoch}"
