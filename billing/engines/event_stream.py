"""Streams whose events have a type, as the Responses and Messages APIs send them.

Decides: what of such a stream leaves and when, and its running counts. Usage is part of these
protocols, so every byte passes; only the event that ends the stream, and what follows it, is held.
What the events of one protocol mean is its own module's business.
"""

from __future__ import annotations

from abc import abstractmethod

from msgspec import Raw

from billing.engines.mark import NOTHING, Ending, Mark
from billing.engines.split_stream import SplitStream
from billing.engines.sse import payload_of
from billing.engines.usage import Figures, raw_figures


class EventReading(SplitStream):
    """One stream of typed events; see `StreamReading`.

    An event with content stands for at least one token, and the prompt for its lower bound from
    the first such event on, until the engine says better.

    Attributes:
        tier: the service tier that its newest event with one names; '' for none.
    """

    __slots__ = (
        "_events",
        "_first",
        "_floor",
        "_newest",
        "_said",
        "anomalies",
        "exact",
        "mark",
        "object_ids",
        "tier",
    )

    def __init__(self, *, prompt_floor: int) -> None:
        super().__init__()
        self._events = 0
        self._floor = prompt_floor  # 0 once the engine has said what the prompt is
        self._said = 0  # the most tokens generated that the engine has said
        self._first: Raw | None = None
        self._newest: Raw | None = None
        self.mark = NOTHING
        self.exact = False
        self.anomalies: set[str] = set()
        self.object_ids: list[str] = []
        self.tier = ""

    @abstractmethod
    def _read(self, payload: bytes) -> Ending | None:
        """Take one event's data into account; how it ends the stream, if it does."""

    def raw(self) -> dict[str, int]:
        """Whole numbers of the first and over them the newest usage object, as they came."""
        if self._first is None or self._newest is None:
            return {}
        return raw_figures(self._first) | raw_figures(self._newest)

    def finish(self) -> bytes:
        """The body is over: what may leave now."""
        if self.ending is not None:
            return b""
        rest = self._splitter.finish()
        passed = self._take([rest]) if rest else b""
        if self.ending is None:
            self.ending = Ending.BODY
        return passed

    def _take(self, events: list[bytes]) -> bytes:
        passed: list[bytes] = []
        for text in events:
            if self.ending is None:
                self.passed = self.mark
                payload = payload_of(text)
                self.ending = self._read(payload) if payload else None
            if self.ending is None:
                passed.append(text)
                self.passed = self.mark
            else:
                self._held.append(text)
        if self.ending is not None:
            self._held.append(self._splitter.finish())
        return b"".join(passed)

    def _content(self) -> None:
        """Generated text, reasoning or arguments came by."""
        self._events += 1
        self.exact = False  # what was said before it was not of the whole answer
        if self._events > self.mark.completion:
            prompt = self._floor or self.mark.prompt
            self.mark = self.mark._replace(prompt=prompt, completion=self._events)

    def _reported(self, usage: Raw, figures: Figures | None, *, whole: bool) -> None:
        """The engine said counts: of the whole answer, or of it so far, cumulative."""
        if figures is None:
            self.anomalies.add("usage_unreadable")
            return
        self._first = self._first or usage
        self._newest = usage
        self._said = max(self._said, figures.completion)
        self.anomalies.update(figures.anomalies)
        if self._floor and figures.prompt:
            # What it says counts, be it less than was supposed.
            self._floor = 0
            self.mark = self.mark._replace(prompt=0)
        seen = self.mark
        said = Mark(
            figures.prompt,
            figures.cached,
            figures.cache_write,
            figures.completion,
            figures.reasoning,
        )
        if whole and (said.completion or not seen.completion):
            if said.completion < seen.completion or said.prompt < seen.prompt:
                self.anomalies.add("counts_fell")
            self.exact = True
            self.mark = said
        else:
            if said.completion < seen.completion and said.completion:
                self.anomalies.add("counts_fell")
            self.mark = seen.raised(said)

    def _conclude(self) -> None:
        """What the engine has said is of the whole answer, be it less than the events that came."""
        self.exact = True
        reasoning = min(self.mark.reasoning, self._said)
        self.mark = self.mark._replace(completion=self._said, reasoning=reasoning)
