"""A stateful, strict stand-in for Stripe, served over real HTTP on the loopback interface.

It decides what Stripe would answer for customers, invoices and events. It does not move money,
and knows nothing of Steelyard. Every request and every answer is checked against Stripe's own API
description (`spec/`), so that a wrong parameter name fails here as it would fail at Stripe.
"""

from __future__ import annotations

from tests.fake_stripe.faults import Fault, FaultKind
from tests.fake_stripe.server import FakeStripe
from tests.fake_stripe.webhooks import DeliveryPlan

__all__ = ["DeliveryPlan", "FakeStripe", "Fault", "FaultKind"]
