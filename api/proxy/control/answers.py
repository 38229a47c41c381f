"""Answers of the database to calls that a thread makes for the event loop.

Decides: how long one is waited for. What is done with none is the callers' to say.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import TypeVar

from api.proxy.patience import done_within

Answer = TypeVar("Answer")


async def answered(running: Future[Answer], limit_ms: int) -> Answer:
    """Wait for a call, which goes on if nobody waits any more.

    Raises:
        TimeoutError: no answer came in time. A call that has not begun by then is not made: while
            the database hangs, such calls would pile up before threads that hang.
    """
    waiting = asyncio.wrap_future(running)
    try:
        # One that was not made, as nobody waited for it any more, is no cancellation of ours.
        if await done_within(waiting, limit_ms) and not waiting.cancelled():
            return waiting.result()
    finally:
        waiting.cancel()
    raise TimeoutError
