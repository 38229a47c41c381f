"""Identifiers of operations.

Decides: that one id, a UUIDv7 (RFC 9562) minted when a request comes in, names the operation, its
usage event and the answer's `x-steelyard-request-id`. Its leading milliseconds let the ledger
partition by it.
"""

from __future__ import annotations

import os

_RANDOM_BYTES = 10
_STOCK_BYTES = 400 * _RANDOM_BYTES


class Mint:
    """Makes ids; random bits are fetched from the kernel in stock, a call each costs more than
    everything else here."""

    __slots__ = ("_stock", "_used")

    def __init__(self) -> None:
        self._stock = b""
        self._used = 0

    def __call__(self, now_us: int) -> bytes:
        """A new UUIDv7: 48 bits of milliseconds, then 74 random bits.

        Args:
            now_us: µs since 1970 UTC.
        """
        if self._used >= len(self._stock):
            self._stock, self._used = os.urandom(_STOCK_BYTES), 0
        random = self._stock[self._used : self._used + _RANDOM_BYTES]
        self._used += _RANDOM_BYTES
        tail = int.from_bytes(random, "big")
        tail = (tail & ~(0xF << 76)) | (0x7 << 76)
        tail = (tail & ~(0x3 << 62)) | (0x2 << 62)
        return ((now_us // 1000 << 80) | tail).to_bytes(16, "big")


def shown(operation_id: bytes) -> bytes:
    """The id as clients see it."""
    return b"req_" + operation_id.hex().encode("ascii")


def id_of(shown_id: bytes) -> bytes:
    """The id that clients see as `shown_id`."""
    return bytes.fromhex(shown_id.removeprefix(b"req_").decode("ascii"))
