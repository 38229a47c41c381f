"""Stripe's webhooks: is this from Stripe, and which object should be fetched again.

Decides authenticity and which event types matter. An event is a hint, never a fact: events come
late, twice and in any order, so nothing in them but the object's id is used. Storing them once and
acting on them is for the caller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import stripe

from billing.errors import BadSignature, InvalidInput
from billing.payments.classification import stripe_errors
from billing.payments.instant import from_stripe, to_stripe

TOLERANCE = timedelta(minutes=5)
PAYLOAD_BYTES_MAX = 1 << 20
PAGE = 100

#: Types after which an invoice of ours may look different at Stripe. Subscribe to these.
RELEVANT_TYPES = frozenset(
    {
        "invoice.finalization_failed",
        "invoice.finalized",
        "invoice.marked_uncollectible",
        "invoice.overpaid",
        "invoice.paid",
        "invoice.payment_failed",
        "invoice.voided",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeEvent:
    """A hint that an object changed.

    Attributes:
        id: unique at Stripe; the key under which it is stored once.
        type: as `invoice.paid`.
        object_id: what to fetch again, as `in_…`.
        created: by Stripe's clock.
    """

    id: str
    type: str
    object_id: str
    created: datetime

    @property
    def relevant(self) -> bool:
        return self.type in RELEVANT_TYPES


def read_event(
    payload: bytes, signature: str | None, *, secrets: Sequence[str], now: datetime
) -> StripeEvent:
    """The event of one webhook request.

    Args:
        payload: the body exactly as received: one parsed and written again has another signature.
        signature: the Stripe-Signature header.
        secrets: signing secrets of the endpoint; two while one replaces the other.
        now: aware; a signature older or newer than TOLERANCE is refused (replay).

    Raises BadSignature, InvalidInput for a signed body that is no event.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BadSignature("the body is larger than any event")
    if signature is None or not any(_signed(payload, signature, secret) for secret in secrets):
        raise BadSignature("the webhook is not signed with a secret of this endpoint")
    age_s = to_stripe(now) - _signed_at(signature)
    if abs(age_s) > TOLERANCE // timedelta(seconds=1):
        raise BadSignature(
            "the webhook's signature is too old, or from the future",
            remedy="check the clock of this machine",
        )
    try:
        return _event(json.loads(payload))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("the webhook's body is not an event of Stripe's v1 API") from error


def list_events(client: stripe.StripeClient, *, created_since: datetime) -> list[StripeEvent]:
    """Relevant events since then, oldest first: finds what no webhook ever brought.

    Stripe keeps them for thirty days. Raises StripeUnavailable, StripeRefused.
    """
    with stripe_errors():
        listed = client.v1.events.list(
            {
                "created": {"gte": to_stripe(created_since)},
                "types": sorted(RELEVANT_TYPES),
                "limit": PAGE,
            }
        )
        found = [
            StripeEvent(
                id=event.id,
                type=event.type,
                object_id=str(event.data.object["id"]),
                created=from_stripe(event.created),
            )
            for event in listed.auto_paging_iter()
        ]
    return found[::-1]


def _signed(payload: bytes, signature: str, secret: str) -> bool:
    try:
        # Any, because the SDK leaves the type of a parameter out that is not used here.
        sdk: Any = stripe.WebhookSignature
        return bool(sdk.verify_header(payload, signature, secret))
    except (stripe.SignatureVerificationError, UnicodeError):
        return False


def _signed_at(signature: str) -> int:
    """Second at which a header was signed; the header has been verified before."""
    fields = (field.split("=", 1) for field in signature.split(","))
    return next(int(text) for name, text in fields if name == "t")


def _event(body: Any) -> StripeEvent:
    texts: list[Any] = [body["id"], body["type"], body["data"]["object"]["id"]]
    if body["object"] != "event" or not all(isinstance(text, str) for text in texts):
        raise TypeError("not an event")
    event_id, kind, object_id = texts
    return StripeEvent(
        id=event_id, type=kind, object_id=object_id, created=from_stripe(body["created"])
    )
