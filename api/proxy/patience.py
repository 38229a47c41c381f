"""Deadlines that do not count the time in which this process stood still.

A host that swaps or migrates, or a callback that takes long, lets every deadline pass at once, and
what came meanwhile takes some turns of the loop until it has woken who waits for it: each wait
would fail whose answer is there already. Decides: that a standstill counts for nothing, unless the
loop is always late. Not for waits that the loop itself ends, such as those of sweeps: sockets are
read before timers run.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_SLICES: Final = 8


async def done_within(waiting: asyncio.Future[Any], limit_ms: int) -> bool:
    """Whether it is done within so many ms in which the loop ran; nothing is cancelled."""
    loop = asyncio.get_running_loop()
    slice_ms, left = max(1, limit_ms // _SLICES), _SLICES
    for _ in range(2 * _SLICES):
        began = loop.time()
        done, _ = await asyncio.wait({waiting}, timeout=slice_ms / 1000)
        if done:
            return True
        left -= (loop.time() - began) * 1000 < 2 * slice_ms
        if not left:
            break
    return False
