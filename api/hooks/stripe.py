"""Stripe's webhook: verify, store, answer; a worker looks at what it hints at."""

from __future__ import annotations

import msgspec
from litestar import Controller, Request, post
from litestar.datastructures import State
from litestar.params import RawBody

from api.bodies import SignedOperation
from api.deployment import DeploymentInUse
from billing.errors import NotFound
from billing.operations.payments.stripe_events import take_webhook
from billing.payments.events import PAYLOAD_BYTES_MAX


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the event is kept; false if it came before or is of no interest."""

    stored: bool


class StripeController(Controller):
    """Called by Stripe."""

    path = "/hooks/stripe"
    tags = ("Webhooks",)
    request_max_body_size = PAYLOAD_BYTES_MAX

    @post(
        operation_id="receive_stripe_event",
        summary="Receive a signed event from Stripe",
        status_code=200,
        operation_class=SignedOperation,
        sync_to_thread=True,
    )
    def receive(
        self, deployment: DeploymentInUse, request: Request[object, object, State], body: RawBody
    ) -> Received:
        secrets = deployment.settings.webhook_secrets()
        if not secrets:
            raise NotFound("webhooks are not configured", remedy="set the webhook's secret")
        with deployment.as_operator() as transaction:
            stored = take_webhook(
                transaction,
                body,
                request.headers.get("stripe-signature"),
                secrets=secrets,
                now=deployment.now(),
            )
        return Received(stored=stored)
