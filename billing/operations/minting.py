"""Draws the randomness that the pure core is handed: ids of events, transactions and invoices."""

from __future__ import annotations

import secrets
from datetime import datetime
from uuid import UUID

from billing.metering.event_id import RANDOM_BITS, milliseconds, uuid7

_DRAWN = -(-RANDOM_BITS // 8)
"""Bytes of randomness per id."""

_SPARE_BITS = 8 * _DRAWN - RANDOM_BITS


def mint_id(now: datetime) -> UUID:
    """A new UUIDv7 for something that comes into being now."""
    return uuid7(milliseconds(now), secrets.randbits(RANDOM_BITS))


def mint_ids(now: datetime, count: int) -> list[UUID]:
    """New ids for a batch that comes into being now; the randomness of all is drawn at once."""
    drawn, at_ms = secrets.token_bytes(_DRAWN * count), milliseconds(now)
    return [
        uuid7(at_ms, int.from_bytes(drawn[place : place + _DRAWN]) >> _SPARE_BITS)
        for place in range(0, len(drawn), _DRAWN)
    ]
