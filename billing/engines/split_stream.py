"""Streams that are cut into events, and whose end is held.

Decides: that whatever comes behind the end is held with it. What an event means, and which one is
the end, is the business of each protocol's own reader.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from billing.engines.mark import NOTHING, Ending, Mark
from billing.engines.sse import EventSplitter


class SplitStream(ABC):
    """One stream; see `StreamReading`.

    Attributes:
        passed: counts of everything that was let out.
        ending: how it ended; None while it goes on.
    """

    __slots__ = ("_held", "_splitter", "ending", "passed")

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._held: list[bytes] = []
        self.passed: Mark = NOTHING
        self.ending: Ending | None = None

    @abstractmethod
    def _take(self, events: list[bytes]) -> bytes:
        """Meter events; what may leave now. The ending, and what follows it, is held."""

    @property
    def holding(self) -> bool:
        """Whether the end, or what may be it, waits."""
        return bool(self._held)

    def feed(self, received: bytes) -> bytes:
        """What may leave now.

        Raises:
            UpstreamUnavailable: an event without an end.
        """
        if self.ending is not None:
            self._held.append(received)
            return b""
        return self._take(self._splitter.feed(received))

    def held(self) -> bytes:
        """The end; once."""
        held = b"".join(self._held)
        self._held.clear()
        return held
