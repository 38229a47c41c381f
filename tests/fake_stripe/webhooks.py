"""Webhook endpoints and their deliveries, as unreliable as Stripe warns that they are.

Decides what is sent, in which order, how often, and signs it. Nothing is sent until `deliver` is
called, so that a test or a demo decides when the world hears of a change.
"""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass

import httpx
import stripe

from tests.fake_stripe.world import Object, World

TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`events` None: all types."""

    url: str
    secret: str
    events: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryPlan:
    """How a round of deliveries misbehaves; all of it follows from the seed."""

    seed: int = 0
    shuffle: bool = False
    duplicate_percent: int = 0
    drop_percent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """`status` None: nobody answered."""

    event_id: str
    kind: str
    status: int | None


class Webhooks:
    def __init__(self, world: World) -> None:
        self._world = world
        self._endpoints: list[Endpoint] = []
        self._waiting: list[tuple[Endpoint, str, str, str]] = []
        self._lock = threading.Lock()
        world.listeners.append(self._queue)

    def register(self, endpoint: Endpoint) -> None:
        with self._lock:
            self._endpoints.append(endpoint)

    def deliver(self, plan: DeliveryPlan) -> list[Delivery]:
        """Send what is waiting; what is not answered with 2xx waits for the next round.

        A dropped delivery never comes again: the event can only be found by listing events.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
        chance = random.Random(plan.seed)
        planned = [item for item in waiting if chance.randrange(100) >= plan.drop_percent]
        planned += [item for item in planned if chance.randrange(100) < plan.duplicate_percent]
        if plan.shuffle:
            chance.shuffle(planned)
        delivered: list[Delivery] = []
        with httpx.Client(timeout=TIMEOUT_S) as client:
            for item in planned:
                endpoint, event_id, kind, payload = item
                status = self._send(client, endpoint, payload)
                delivered.append(Delivery(event_id=event_id, kind=kind, status=status))
                if status is None or not httpx.codes.is_success(status):
                    with self._lock:
                        self._waiting.append(item)
        return delivered

    def _send(self, client: httpx.Client, endpoint: Endpoint, payload: str) -> int | None:
        signature = stripe.WebhookSignature.generate_signature_header(
            payload, endpoint.secret, timestamp=self._world.clock.now()
        )
        headers = {"content-type": "application/json", "stripe-signature": signature}
        try:
            return client.post(endpoint.url, content=payload, headers=headers).status_code
        except httpx.TransportError:
            return None

    def _queue(self, event: Object) -> None:
        payload = json.dumps(event, separators=(",", ":"))
        with self._lock:
            for endpoint in self._endpoints:
                if endpoint.events is None or event["type"] in endpoint.events:
                    self._waiting.append((endpoint, event["id"], event["type"], payload))
