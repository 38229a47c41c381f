"""Webhooks: store what Stripe delivered, then look at the object it hints at.

An event's own content is never applied: events come twice, late and out of order, so the worker
fetches the invoice and brings our books to what it says now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from billing.errors import NotFound
from billing.ledger.account import AccountCode
from billing.operations.invoicing.read_invoices import require_invoice
from billing.operations.payments.receive_payment import paid_into_minor, receive_payment
from billing.payments.events import StripeEvent, list_events, read_event
from billing.payments.mirror import retrieve_invoice
from billing.store import jobs
from billing.store import payments as store
from billing.store.database import Database, Role

if TYPE_CHECKING:
    import stripe


def take_webhook(
    connection: sa.Connection,
    payload: bytes,
    signature: str | None,
    *,
    secrets: Sequence[str],
    now: datetime,
) -> bool:
    """Verify and store a webhook, and enqueue its application; False if it came before.

    Raises:
        BadSignature: Stripe did not sign it, or too long ago; nothing is stored.
        InvalidInput: a signed body that is no event.
    """
    event = read_event(payload, signature, secrets=secrets, now=now)
    return _receive(connection, event, payload, now=now)


def apply_event(
    database: Database, client: stripe.StripeClient, event_id: str, *, now: datetime
) -> None:
    """Fetch the invoice that an event hints at and post what was paid for it.

    Raises:
        NotFound: no such stored event.
        StripeUnavailable, StripeRefused: nothing is applied; try again.
    """
    with database.transaction(Role.OPERATOR) as connection:
        event = store.received_event(connection, event_id)
        if event is None:
            raise NotFound(
                "no such stored event", field="event", remedy="wait for Stripe to send it again"
            )
        mirror = store.mirror_by_stripe_id(connection, event.object_id)
    if event.applied_at is None and mirror is not None:
        current = retrieve_invoice(client, event.object_id)
        with database.transaction(Role.OPERATOR) as connection:
            head = require_invoice(connection, str(mirror.invoice_id), tenant_id=None).invoice
            # Paid elsewhere is money that never came through Stripe; an operator posts it.
            through_stripe = current.amount_paid_minor - current.paid_off_stripe_minor
            # Against what came through Stripe, not all that was paid: who pays by wire and by
            # card has paid twice, and that must be refused where a person sees it, not vanish.
            new_minor = through_stripe - paid_into_minor(
                connection, head, AccountCode.STRIPE_CLEARING
            )
            if new_minor > 0:
                receive_payment(
                    connection,
                    invoice=str(head.id),
                    amount_minor=new_minor,
                    into=AccountCode.STRIPE_CLEARING,
                    idempotency_key=f"stripe/{current.stripe_id}/{through_stripe}",
                    now=now,
                )
    with database.transaction(Role.OPERATOR) as connection:
        store.mark_applied(connection, event_id, now=now)


def catch_up(
    database: Database, client: stripe.StripeClient, *, since: datetime, now: datetime
) -> int:
    """Store events that no webhook brought; how many were new."""
    found = list_events(client, created_since=since)
    with database.transaction(Role.OPERATOR) as connection:
        return sum(_receive(connection, event, b"", now=now) for event in found)


def _receive(
    connection: sa.Connection, event: StripeEvent, payload: bytes, *, now: datetime
) -> bool:
    if not event.relevant:
        return False
    is_new = store.receive_event(
        connection,
        event_id=event.id,
        event_type=event.type,
        object_id=event.object_id,
        payload=payload,
        created_at=event.created,
        now=now,
    )
    if is_new:
        jobs.enqueue(
            connection,
            jobs.APPLY_STRIPE_EVENT,
            lock=f"stripe-object-{event.object_id}",
            event_id=event.id,
        )
    return is_new
