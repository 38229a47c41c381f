"""Draws the randomness that the pure core is handed: ids of events, transactions and invoices."""

from __future__ import annotations

import secrets
from datetime import datetime
from uuid import UUID

from billing.metering.event_id import RANDOM_BITS, milliseconds, uuid7


def mint_id(now: datetime) -> UUID:
    """A new UUIDv7 for something that comes into being now."""
    return uuid7(milliseconds(now), secrets.randbits(RANDOM_BITS))
