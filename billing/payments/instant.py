"""Instants as Stripe writes them: whole seconds since 1970, UTC.

Decides nothing but the conversion, without a float on the way.
"""

from __future__ import annotations

from calendar import timegm
from datetime import UTC, datetime

from billing.errors import InvalidInput


def to_stripe(instant: datetime) -> int:
    """Whole seconds, the fraction cut off."""
    return timegm(instant.utctimetuple())


def from_stripe(seconds: int) -> datetime:
    """Aware, UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC)


def require_aware(instant: datetime, field: str) -> None:
    """Raises InvalidInput for a naive instant: local time would be guessed."""
    if instant.tzinfo is None:
        raise InvalidInput("an instant needs its zone", field=field)
