"""Identity of a usage event: a UUIDv7 whose time is the instant it was minted.

Decides the layout only (RFC 9562, version 7). Time and randomness are handed in, so that this
stays pure; partitions of the usage ledger are ranges of these ids.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

RANDOM_BITS = 74
"""Random bits that a caller supplies per id."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_B_BITS = 62


def uuid7(at_ms: int, randomness: int) -> UUID:
    """The UUIDv7 of an instant.

    Args:
        at_ms: milliseconds since 1970-01-01T00:00:00Z, below 2^48.
        randomness: `RANDOM_BITS` random bits.
    """
    random_a = (randomness >> _RANDOM_B_BITS) & 0xFFF
    random_b = randomness & ((1 << _RANDOM_B_BITS) - 1)
    value = (at_ms & ((1 << 48) - 1)) << 80
    value |= (0x7 << 76) | (random_a << 64) | (0b10 << 62) | random_b
    return UUID(int=value)


def milliseconds(instant: datetime) -> int:
    """Whole milliseconds since 1970 of an aware instant."""
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970 of an aware instant."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def from_microseconds(at_us: int) -> datetime:
    """The instant that lies `at_us` microseconds after 1970, exactly."""
    return _EPOCH + timedelta(microseconds=at_us)
