"""How many tokens a stream has carried so far.

Decides: the running lower bound and the final counts of one stream, from whatever its engine
reports. Counts never fall: an engine that steps back is noted, not believed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from billing.engines.capabilities import Capabilities
from billing.engines.mark import NOTHING, Mark
from billing.engines.sse import Event, EventKind
from billing.engines.steady_chunk import SteadyChunk
from billing.engines.usage import Figures, raw_figures, read_figures

# `Mark(...)` takes twice as long, and one is made for every chunk of every stream.
_new_mark: Callable[[type[Mark], tuple[int, ...]], Mark] = tuple.__new__  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # of tuple's items


class StreamMeter:
    """Counts of one stream.

    Without continuous counts an event with content stands for at least one token, and the prompt
    for its lower bound from the first such event on, until the engine says it.
    """

    __slots__ = (
        "_at_finish",
        "_engine",
        "_events",
        "_final",
        "_floor",
        "_mark",
        "_per_choice",
        "_raw",
        "_single",
        "anomalies",
    )

    def __init__(self, engine: Capabilities, *, choices: int, prompt_floor: int = 0) -> None:
        self._engine = engine
        self._single = choices == 1
        self._per_choice: dict[int, tuple[int, int]] = {}
        self._events = 0
        self._floor = prompt_floor  # 0 once the engine has said what the prompt is
        self._at_finish: Figures | None = None
        self._final: Figures | None = None
        self._raw: bytes | Raw | SteadyChunk | None = None
        self._mark = NOTHING
        self.anomalies: set[str] = set()

    @property
    def mark(self) -> Mark:
        """Counts up to and including the last observed event."""
        return self._mark

    @property
    def follows_one(self) -> bool:
        """No counts of any other choice than the first were seen."""
        return self._per_choice.keys() <= {0}

    @property
    def exact(self) -> bool:
        """The engine has given the counts of the whole answer."""
        return self._final is not None and self._final.complete

    def raw(self) -> dict[str, int]:
        """Whole numbers of the newest usage object, as the engine gave them."""
        raw = self._raw.usage if isinstance(self._raw, SteadyChunk) else self._raw
        return {} if raw is None else raw_figures(raw)

    def conclude(self) -> None:
        """The stream has ended in order; the counts on its finishing chunk are of all of it."""
        if self._final is None and self._at_finish is not None:
            self._settle(self._at_finish)

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        if event.has_content:
            self._events += 1
        if event.has_content or event.kind is EventKind.MIXED:
            self._final = None  # what was said before it was not of the whole answer
        if event.usage is None:
            if event.has_content and self._events > self._mark.completion:
                prompt = self._floor or self._mark.prompt
                self._mark = self._mark._replace(prompt=prompt, completion=self._events)
            return
        figures = read_figures(event.usage, generates=True)
        if figures is None:
            self.anomalies.add("usage_unreadable")
            return
        self._raw = event.usage
        if self._floor and figures.prompt:
            # What it says counts, be it less than was supposed.
            self._floor = 0
            self._mark = self._mark._replace(prompt=0)
        if figures.anomalies:
            self.anomalies.update(figures.anomalies)
        if event.kind is not EventKind.USAGE_ONLY:
            self._progress(event, figures)
        elif figures.complete and (figures.completion or not self._mark.completion):
            self._settle(figures)
        else:
            # It leaves out a figure, or counts nothing where something was delivered: it may add
            # to what was seen, never take it back.
            if figures.complete:
                self.anomalies.add("counts_fell")
            self._raise(figures, figures.completion, figures.reasoning)

    def grow(self, steady: SteadyChunk) -> Mark:
        """Take a chunk into account that has the form of one that was observed; the new mark.

        As `observe` for such a chunk, whose other figures are those of the mark already.
        """
        prompt, cached, cache_write, before, reasoning = self._mark
        self._final = None
        if steady.counted:
            completion = steady.completion
            self._raw = steady
            self._per_choice[0] = (completion, self._per_choice[0][1])
        else:
            self._events = completion = self._events + 1
            prompt = self._floor or prompt
        if completion > before:
            self._mark = _new_mark(Mark, (prompt, cached, cache_write, completion, reasoning))
        return self._mark

    def _settle(self, figures: Figures) -> None:
        """The engine's own total replaces what was seen on the way."""
        if figures.completion < self._mark.completion or figures.prompt < self._mark.prompt:
            self.anomalies.add("counts_fell")
        self._final = figures
        self._mark = Mark(
            figures.prompt,
            figures.cached,
            figures.cache_write,
            figures.completion,
            figures.reasoning,
        )

    def _progress(self, event: Event, figures: Figures) -> None:
        """Counts on a chunk with choices: of its choice so far, or of a finished answer."""
        if self._single and event.finished and figures.complete:
            self._at_finish = figures
            if not self._engine.continuous_usage:
                self._settle(figures)
                return
        completion, reasoning = figures.completion, figures.reasoning
        before = self._per_choice.get(event.index)
        if before is not None:
            if completion < before[0]:
                self.anomalies.add("counts_fell")
            completion, reasoning = max(completion, before[0]), max(reasoning, before[1])
        self._per_choice[event.index] = (completion, reasoning)
        if self._engine.counts_per_choice and len(self._per_choice) > 1:
            completion = sum(count for count, _ in self._per_choice.values())
            reasoning = sum(count for _, count in self._per_choice.values())
        self._raise(figures, completion, reasoning)

    def _raise(self, figures: Figures, completion: int, reasoning: int) -> None:
        """Bring the lower bound up to what is reported."""
        seen = self._mark
        self._mark = Mark(
            max(seen.prompt, figures.prompt),
            max(seen.cached, figures.cached),
            max(seen.cache_write, figures.cache_write),
            max(seen.completion, completion),
            max(seen.reasoning, reasoning),
        )
