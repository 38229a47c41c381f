"""Streams of chunks, as chat completions and completions are sent.

Decides: which events of such a stream leave, changed how, and when. Bytes pass unchanged, but for
usage that only the meter asked for. Held back until the usage is durable is what a client takes
for the end: `[DONE]`, an error, or, where the engine may send neither, the event that carries a
finish_reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from billing.engines.answer_usage import tier_named
from billing.engines.capabilities import Capabilities
from billing.engines.engine_request import asks_for_usage
from billing.engines.mark import Ending, Mark
from billing.engines.read_request import InferenceRequest
from billing.engines.split_stream import SplitStream
from billing.engines.sse import Event, EventKind, read_event, without_usage
from billing.engines.steady_chunk import SteadyChunk, steady_chunk
from billing.engines.stream_meter import StreamMeter

_ENDINGS = {EventKind.DONE: Ending.DONE, EventKind.ERROR: Ending.ERROR}
_GOES_ON = frozenset({EventKind.CONTENT, EventKind.MIXED, *_ENDINGS})
_FORMS = 64
"""Forms that are learnt of one stream; one that changes all the time is decoded instead."""


class ChunkReading(SplitStream):
    """One stream of chunks.

    Attributes:
        tier: the service tier that the newest of them names; '' for none. All of one form name
            the same.
    """

    __slots__ = (
        "_engine",
        "_forms",
        "_injected",
        "_meter",
        "_named",
        "_request",
        "_steady",
        "tier",
    )

    object_ids: Sequence[str] = ()

    def __init__(
        self, engine: Capabilities, request: InferenceRequest, *, prompt_floor: int
    ) -> None:
        super().__init__()
        self._engine = engine
        self._request = request
        self._injected = asks_for_usage(request, engine)
        self._meter = StreamMeter(engine, request, prompt_floor=prompt_floor)
        self._steady: SteadyChunk | None = None
        self.tier = ""
        self._named = b""  # the newest tier, as it is written
        self._forms = _FORMS if request.choices * request.prompts == 1 else 0  # left to learn

    @property
    def mark(self) -> Mark:
        """Counts of everything that was read."""
        return self._meter.mark

    @property
    def exact(self) -> bool:
        """The engine has given the counts of the whole answer."""
        return self._meter.exact

    @property
    def anomalies(self) -> set[str]:
        """What was wrong with the engine's figures."""
        return self._meter.anomalies

    def raw(self) -> dict[str, int]:
        """Whole numbers of the newest usage object, as the engine gave them."""
        return self._meter.raw()

    def feed(self, received: bytes) -> bytes:
        """What may leave now.

        Raises:
            UpstreamUnavailable: an event without an end.
        """
        steady = self._steady
        # Most reads are one chunk like the one before it.
        if steady is not None and not self._held and not self._splitter.rest:
            shown = steady.read(received)
            if shown is not None:
                self.passed = self._meter.grow(steady)
                return shown
        return super().feed(received)

    def finish(self) -> bytes:
        """The body is over: what may leave now."""
        if self.ending is not None:
            return b""
        rest = self._splitter.finish()
        if not rest.strip():
            # Blanks behind an event that may be the end must not let it out before its record.
            self._held += [rest] if rest else []
            passed = b""
        else:
            passed = self._take([rest])
        if self.ending is None:
            self.ending = Ending.BODY
            self._meter.conclude()
        return passed

    def _take(self, events: list[bytes]) -> bytes:
        """Meter events; what may leave now. The ending, and what follows it, is held."""
        passed: list[bytes] = []
        for text in events:
            if self.ending is not None:
                self._held.append(text)
                continue
            if self._steady is not None and not self._held:
                shown = self._steady.read(text)
                if shown is not None:
                    self.passed = self._meter.grow(self._steady)
                    passed.append(shown)
                    continue
                self._steady = None  # a form is known to go on where it went on so far
            event = read_event(text)
            if self._engine.answers_tier:
                self._name_tier(bytes(event.tier))
            if self._held and event.kind not in _GOES_ON:
                # Nothing says that the stream goes on, so what is held may still be its end.
                self._meter.observe(event)
                self._held.append(self._shown(event))
                continue
            passed += self._held
            self._held.clear()
            self.passed = self._meter.mark
            if event.kind in _ENDINGS:
                self.ending = _ENDINGS[event.kind]
                self._held.append(text)
                continue
            self._meter.observe(event)
            shown = self._shown(event)
            if event.finished and not self._engine.done_marker:
                self._held.append(shown)
                continue
            passed.append(shown)
            self.passed = self._meter.mark
            if self._forms and not event.finished and self._is_usual(event):
                self._learn(event, shown)
        if self.ending is not None:
            self._held.append(self._splitter.finish())
            if self.ending is Ending.DONE:
                self._meter.conclude()
        return b"".join(passed)

    def _name_tier(self, named: bytes) -> None:
        """Take note of the tier that a chunk names, which is mostly that of the one before it."""
        if named != self._named:
            self._named = named
            self.tier = tier_named(named) or self.tier

    def _is_usual(self, event: Event) -> bool:
        """Whether more chunks like it may come, of which nothing else need be known."""
        return event.has_content if event.usage is None else self._engine.continuous_usage

    def _learn(self, event: Event, shown: bytes) -> None:
        """Expect more chunks like this one."""
        if self._meter.follows_one:
            self._steady = steady_chunk(event, shown)
        self._forms -= 1

    def _shown(self, event: Event) -> bytes:
        """What the client gets of an event: what it would get if the meter had not asked."""
        asked = self._request.wants_usage
        if not (self._injected and event.usage_member):
            return event.text
        if event.kind is EventKind.USAGE_ONLY:
            return event.text if asked else b""
        return event.text if asked and event.usage is None else without_usage(event)
