"""An engine's own counts as bytes: zigzag LEB128, one after the other, in the order of the shape.

Decides: their packing only. Most counts take a byte or two, where an array of bigint takes eight
each and 24 before the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final


def pack_counts(counts: Iterable[int]) -> bytes:
    """The bytes of integers of any size and sign."""
    return b"".join(
        [_SMALL[count] if 0 <= count < _SMALL_END else _packed(count) for count in counts]
    )


def unpack_counts(packed: bytes) -> list[int]:
    """The integers that `pack_counts` took."""
    counts: list[int] = []
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            counts.append(-(value >> 1) - 1 if value & 1 else value >> 1)
            value = shift = 0
    return counts


def _packed(count: int) -> bytes:
    rest = count << 1 if count >= 0 else (-count << 1) - 1
    packed = bytearray()
    while rest > 0x7F:
        packed.append(rest & 0x7F | 0x80)
        rest >>= 7
    packed.append(rest)
    return bytes(packed)


_SMALL_END: Final = 1 << 14
_SMALL: Final = [_packed(count) for count in range(_SMALL_END)]
