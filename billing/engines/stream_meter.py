"""How many tokens a stream has carried so far.

Decides: the running lower bound and the final counts of one stream, from whatever its engine
reports. Counts never fall: an engine that steps back is noted, not believed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from billing.engines.capabilities import Capabilities
from billing.engines.mark import NOTHING, Mark
from billing.engines.read_request import InferenceRequest
from billing.engines.sse import Event, EventKind, carries_content
from billing.engines.steady_chunk import SteadyChunk
from billing.engines.usage import Figures, raw_figures, read_figures

# `Mark(...)` takes twice as long, and one is made for every chunk of every stream.
_new_mark: Callable[[type[Mark], tuple[int, ...]], Mark] = tuple.__new__  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  # of tuple's items


class StreamMeter:
    """Counts of one stream.

    Without continuous counts an event with content stands for at least one token, and the prompt
    for its lower bound from the first such event on, until the engine says it. Counts on an event
    with content that are nothing, cannot be read, or are of that event alone, are no counts.
    """

    __slots__ = (
        "_answers",
        "_at_finish",
        "_choices",
        "_engine",
        "_events",
        "_final",
        "_finished",
        "_floor",
        "_mark",
        "_of_prompts",
        "_per_choice",
        "_prompts",
        "_raw",
        "_stuck",
        "anomalies",
    )

    def __init__(
        self, engine: Capabilities, request: InferenceRequest, *, prompt_floor: int = 0
    ) -> None:
        self._engine = engine
        self._choices, self._prompts = request.choices, request.prompts
        self._answers = self._choices * self._prompts
        self._per_choice: dict[int, Mark] = {}
        self._of_prompts: list[Mark] = []  # totals of prompts that are over
        # The first text of an answer may be its prompt's, repeated.
        self._events = -self._answers if request.echoes else 0
        self._floor = prompt_floor  # 0 once the engine has said what the prompt is
        self._stuck = 0  # events with content whose counts were not above those before
        self._finished: set[int] = set()  # choices that are over
        self._at_finish: Figures | None = None
        self._final: Mark | None = None
        self._raw: bytes | Raw | SteadyChunk | None = None
        self._mark = NOTHING
        self.anomalies: set[str] = set()

    @property
    def mark(self) -> Mark:
        """Counts up to and including the last observed event."""
        return self._mark

    @property
    def follows_one(self) -> bool:
        """No counts of any other choice than the first were seen, and it goes on."""
        return not self._finished and self._per_choice.keys() <= {0}

    @property
    def exact(self) -> bool:
        """The engine has given the counts of the whole answer."""
        return self._final is not None

    def raw(self) -> dict[str, int]:
        """Whole numbers of the newest usage object, as the engine gave them."""
        raw = self._raw.usage if isinstance(self._raw, SteadyChunk) else self._raw
        return {} if raw is None else raw_figures(raw)

    def conclude(self) -> None:
        """The stream has ended in order; the counts on its last chunks are of all of it."""
        if self._final is None and self._at_finish is not None:
            self._settle(_mark_of(self._at_finish))

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        figures = None if event.usage is None else read_figures(event.usage, generates=True)
        said = 0 if figures is None else figures.completion
        known = said > 0 and self._engine.continuous_usage
        content = event.has_content or (not known and carries_content(event))
        if content or event.kind is EventKind.MIXED:
            # What was said before it was not of the whole answer.
            self._final = self._at_finish = None
        if event.finished:
            self._finished.add(event.index)
        if content:
            self._deliver(event, said)
        if event.usage is None:
            return
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
        elif self._counts_all(figures):
            self._total(figures)
        else:
            # It leaves out a figure, or counts nothing where something was delivered: it may add
            # to what was seen, never take it back.
            if figures.complete:
                self.anomalies.add("counts_fell")
            self._mark = self._mark.raised(_mark_of(figures))

    def grow(self, steady: SteadyChunk) -> Mark:
        """Take a chunk into account that has the form of one that was observed; the new mark.

        As `observe` for such a chunk, whose other figures are those of the mark already.
        """
        prompt, cached, cache_write, before, reasoning = self._mark
        self._final = None
        if steady.counted:
            completion = steady.completion
            self._raw = steady
        else:
            self._events = completion = self._events + 1
            prompt = self._floor or prompt
        if completion > before:
            self._mark = _new_mark(Mark, (prompt, cached, cache_write, completion, reasoning))
            if steady.counted:
                self._per_choice[0] = self._mark
        return self._mark

    def _deliver(self, event: Event, said: int) -> None:
        """Content came by: at least one token, unless the engine counts what came so far."""
        self._events += 1
        if 0 < said <= self._per_choice.get(event.index, NOTHING).completion:
            self._stuck += 1
        if not said or self._counts_each_alone:
            prompt = self._floor or self._mark.prompt
            completion = max(self._mark.completion, self._events)
            self._mark = self._mark._replace(prompt=prompt, completion=completion)

    @property
    def _counts_each_alone(self) -> bool:
        """Whether its counts are of each chunk, not of all so far: most of them did not rise."""
        return not self._engine.continuous_usage and 2 * self._stuck > self._events

    def _counts_all(self, figures: Figures) -> bool:
        """Whether figures can be the whole answer's: not where they are nothing, and it is not."""
        return figures.complete and (figures.completion > 0 or not self._mark.completion)

    def _total(self, figures: Figures) -> None:
        """Counts on a chunk of their own: of all that was asked for, or of one of its prompts."""
        total = _mark_of(figures)
        if self._engine.totals_per_prompt and self._prompts > 1:
            self._of_prompts.append(total)
            if len(self._of_prompts) < self._prompts:
                return
            total = Mark(*map(sum, zip(*self._of_prompts, strict=True)))
        self._settle(total)

    def _settle(self, total: Mark) -> None:
        """The engine's own total replaces what was seen on the way."""
        if total.completion < self._mark.completion or total.prompt < self._mark.prompt:
            self.anomalies.add("counts_fell")
        self._final = self._mark = total

    def _progress(self, event: Event, figures: Figures) -> None:
        """Counts on a chunk with choices: of its choice so far, or of a finished answer."""
        said = _mark_of(figures)
        before = self._per_choice.get(event.index, NOTHING)
        if self._counts_all(figures) and self._covers_all(said):
            self._at_finish = figures
            if not self._engine.continuous_usage:
                self._settle(said)
                return
        if said.completion < before.completion:
            self.anomalies.add("counts_fell")
        self._per_choice[event.index] = before.raised(said)
        if self._engine.counts_per_choice and len(self._per_choice) > 1:
            said = self._of_all_choices(said)
        self._mark = self._mark.raised(said)

    def _covers_all(self, said: Mark) -> bool:
        """Whether counts on a chunk are of every choice, all of them being over."""
        if len(self._finished) < self._answers:
            return False
        if self._counts_each_alone and said.completion < self._events:
            return False
        return self._answers == 1 or (
            not self._engine.counts_per_choice
            and all(said.completion >= one.completion for one in self._per_choice.values())
        )

    def _of_all_choices(self, said: Mark) -> Mark:
        """Counts of all choices so far: each prompt once, though all its choices say it.

        Args:
            said: by the newest chunk.
        """
        choices = self._per_choice.values()
        completion = sum([mark.completion for mark in choices])
        reasoning = sum([mark.reasoning for mark in choices])
        if self._prompts == 1:
            return said._replace(completion=completion, reasoning=reasoning)
        prompts: dict[int, Mark] = {}
        for index, mark in self._per_choice.items():
            prompt = index // self._choices
            prompts[prompt] = prompts.get(prompt, NOTHING).raised(mark)
        read = Mark(*map(sum, zip(*prompts.values(), strict=True)))
        return read._replace(completion=completion, reasoning=reasoning)


def _mark_of(figures: Figures) -> Mark:
    return Mark(
        figures.prompt, figures.cached, figures.cache_write, figures.completion, figures.reasoning
    )
