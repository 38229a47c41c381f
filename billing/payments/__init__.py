"""Stripe: mirrors invoices that are already issued, and reads what happened to them.

Decides how our invoice looks at Stripe, how a lost answer is recovered without a second effect and
which of Stripe's errors are worth a retry. It never rates, never posts and never decides that an
invoice is paid: amounts come from issued invoices, money facts go back as values.
"""

from __future__ import annotations

from billing.payments.classification import next_epoch
from billing.payments.client import API_VERSION, make_client, open_client
from billing.payments.events import RELEVANT_TYPES, StripeEvent, list_events, read_event
from billing.payments.http_client import ThrottledHttpClient, TokenBucket
from billing.payments.mirror import (
    add_lines,
    check_totals,
    ensure_customer,
    ensure_invoice,
    finalize,
    look_up_customer,
    look_up_invoice,
    retrieve_invoice,
)
from billing.payments.mirrored import (
    Attempt,
    InvoiceStatus,
    MirrorCustomer,
    MirroredInvoice,
    MirrorInvoice,
    MirrorLine,
)

__all__ = [
    "API_VERSION",
    "RELEVANT_TYPES",
    "Attempt",
    "InvoiceStatus",
    "MirrorCustomer",
    "MirrorInvoice",
    "MirrorLine",
    "MirroredInvoice",
    "StripeEvent",
    "ThrottledHttpClient",
    "TokenBucket",
    "add_lines",
    "check_totals",
    "ensure_customer",
    "ensure_invoice",
    "finalize",
    "list_events",
    "look_up_customer",
    "look_up_invoice",
    "make_client",
    "next_epoch",
    "open_client",
    "read_event",
    "retrieve_invoice",
]
