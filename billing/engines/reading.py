"""Answers of engines, read for what they cost and for what of them may leave.

Decides: which reader a route's streams need. Everything below is pure: bytes of the backend in,
bytes for the client and counts out, so that it can be tested at every byte. When the bytes are
sent, and what is made durable before, is the relays' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, assert_never

from billing.admission.route import Dialect, Route
from billing.engines.capabilities import Capabilities
from billing.engines.chunk_stream import ChunkReading
from billing.engines.mark import Ending, Mark
from billing.engines.messages_stream import MessagesReading
from billing.engines.read_request import InferenceRequest
from billing.engines.responses_stream import ResponsesReading


class StreamReading(Protocol):
    """One stream: bytes of the backend in, bytes that may leave now out."""

    @property
    def mark(self) -> Mark:
        """Counts of everything that was read."""
        ...

    @property
    def passed(self) -> Mark:
        """Counts of everything that `feed` has let out: what a client has who got all of it."""
        ...

    @property
    def exact(self) -> bool:
        """The engine has given the counts of the whole answer."""
        ...

    @property
    def anomalies(self) -> set[str]:
        """What was wrong with the engine's figures, as stable words."""
        ...

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while it goes on."""
        ...

    @property
    def holding(self) -> bool:
        """Whether `held` has something to give."""
        ...

    @property
    def tier(self) -> str:
        """The service tier that it names, so far; '' for none, or where none is looked for."""
        ...

    @property
    def object_ids(self) -> Sequence[str]:
        """Ids in events that a client could send back."""
        ...

    def feed(self, received: bytes) -> bytes:
        """What may leave now. The ending and whatever follows it is held.

        Raises:
            UpstreamUnavailable: an event without an end.
        """
        ...

    def finish(self) -> bytes:
        """The body is over: what may leave now; the last event may be held."""
        ...

    def held(self) -> bytes:
        """The end, for when the usage is durable. It is given once."""
        ...

    def raw(self) -> dict[str, int]:
        """Whole numbers of the newest usage object, as the engine gave them."""
        ...


def stream_reading(
    route: Route, engine: Capabilities, request: InferenceRequest, *, prompt_floor: int
) -> StreamReading:
    """The reader of the stream that answers a request.

    Args:
        prompt_floor: tokens that the prompt has at least; billed when the stream is cut before
            the engine has said how many they are.
    """
    dialect = route.spec.dialect
    match dialect:
        case Dialect.CHUNKS:
            return ChunkReading(engine, request, prompt_floor=prompt_floor)
        case Dialect.MESSAGES:
            return MessagesReading(prompt_floor=prompt_floor, tiered=engine.answers_tier)
        case Dialect.RESPONSES | Dialect.PLAIN:
            return ResponsesReading(prompt_floor=prompt_floor, tiered=engine.answers_tier)
        case _:
            assert_never(dialect)
