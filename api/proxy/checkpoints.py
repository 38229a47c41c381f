"""One timer for all open streams: measure what was delivered, journal what moved.

Decides: how old a checkpoint can be. One sweep for the process instead of a timer per stream: a
thousand streams would otherwise wake the loop ten thousand times a second.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from api.proxy.limits import Limits
from api.proxy.ports import Clock, JournalPort
from api.proxy.tally import Tally
from billing.journal.records import Checkpoint


class Checkpointed(Protocol):
    """An open stream."""

    def sweep(self, now_us: int, *, stalled_us: int) -> Checkpoint | None:
        """Its checkpoint, if more was delivered since the last one."""
        ...


class CheckpointSweep:
    """The open streams of a process; the timer runs while there are any."""

    def __init__(self, journal: JournalPort, tally: Tally, limits: Limits, clock: Clock) -> None:
        self._journal = journal
        self._tally = tally
        self._limits = limits
        self._clock = clock
        self._streams: set[Checkpointed] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Checkpointed) -> None:
        """Begin to sweep a stream."""
        self._streams.add(stream)
        if self._timer is None:
            self._arm()

    def discard(self, stream: Checkpointed) -> None:
        """Sweep a stream no more: its outcome is written."""
        self._streams.discard(stream)

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.checkpoint_ms / 1000, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now_us, stalled_us = self._clock(), self._limits.client_stalled_ms * 1000
        swept = [stream.sweep(now_us, stalled_us=stalled_us) for stream in list(self._streams)]
        moved = [checkpoint for checkpoint in swept if checkpoint is not None]
        if moved:
            self._tally.checkpoints += len(moved)
            with self._tally.refusals(len(moved)):
                self._journal.append_checkpoints(moved)
        if self._streams:
            self._arm()
