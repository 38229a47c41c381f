"""Identifiers of operations.

Decides: that one id, a UUIDv7 (RFC 9562) minted when a request comes in, names the operation, its
usage event and the answer's `x-steelyard-request-id`. Its leading milliseconds let the ledger
partition by it.
"""

from __future__ import annotations

import os

_RANDOM_BYTES = 10
_LOW_80 = (1 << 80) - 1


def mint(now_us: int) -> bytes:
    """A new UUIDv7: 48 bits of milliseconds, then 74 random bits.

    Args:
        now_us: µs since 1970 UTC.
    """
    tail = int.from_bytes(os.urandom(_RANDOM_BYTES), "big") & _LOW_80
    tail = (tail & ~(0xF << 76)) | (0x7 << 76)
    tail = (tail & ~(0x3 << 62)) | (0x2 << 62)
    return ((now_us // 1000 << 80) | tail).to_bytes(16, "big")


def shown(operation_id: bytes) -> bytes:
    """The id as clients see it."""
    return b"req_" + operation_id.hex().encode("ascii")
