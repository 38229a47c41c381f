"""Identifiers of operations.

Decides: that one id, a UUIDv7 (RFC 9562) minted when a request comes in, names the operation, its
usage event and the answer's `x-steelyard-request-id`. Its leading milliseconds let the ledger
partition by it.
"""

from __future__ import annotations

import os

_RANDOM_BYTES = 10
_IN_STOCK = 400
_STOCK_BYTES = _IN_STOCK * _RANDOM_BYTES
# Behind the milliseconds: 4 bits of version, 12 random ones, 2 of variant, 62 random ones.
_KEPT = int.from_bytes(b"\x0f\xff\x3f\xff\xff\xff\xff\xff\xff\xff" * _IN_STOCK)
_SET = int.from_bytes(b"\x70\x00\x80\x00\x00\x00\x00\x00\x00\x00" * _IN_STOCK)


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
        start = self._used
        if start >= len(self._stock):
            random = int.from_bytes(os.urandom(_STOCK_BYTES))
            self._stock, start = (random & _KEPT | _SET).to_bytes(_STOCK_BYTES), 0
        self._used = end = start + _RANDOM_BYTES
        return (now_us // 1000).to_bytes(6) + self._stock[start:end]


def shown(operation_id: bytes) -> bytes:
    """The id as clients see it."""
    return b"req_" + operation_id.hex().encode("ascii")


def id_of(shown_id: bytes) -> bytes:
    """The id that clients see as `shown_id`."""
    return bytes.fromhex(shown_id.removeprefix(b"req_").decode("ascii"))
