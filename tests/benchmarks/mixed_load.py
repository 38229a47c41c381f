"""Requests of several kinds at once: whole answers, streams, clients that leave, long prompts.

At a steady rate, or as fast as the server answers, to learn how fast that is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import cycle
from typing import cast

from tests.benchmarks.load import END_OF_STREAM
from tests.benchmarks.proxy_world import request_bytes

TICK_SECONDS = 0.01
LONG_PROMPT_BYTES = 200_000
GIVE_UP_SECONDS = 30


class Kind(Enum):
    """What a client does."""

    WHOLE = auto()
    STREAM = auto()
    LONG_PROMPT = auto()
    ABORT = auto()
    """It begins to read a stream, and leaves."""


_WHOLE, _STREAM, _LONG, _ABORT = Kind.WHOLE, Kind.STREAM, Kind.LONG_PROMPT, Kind.ABORT
MIX = (
    *(_WHOLE, _WHOLE, _STREAM, _WHOLE, _WHOLE, _WHOLE, _STREAM, _WHOLE, _WHOLE, _LONG),
    *(_WHOLE, _WHOLE, _STREAM, _WHOLE, _WHOLE, _WHOLE, _ABORT, _WHOLE, _WHOLE, _WHOLE),
)
"""Kinds, in turn."""


@dataclass(slots=True)
class Answers:
    """What clients saw.

    Attributes:
        complete: whole answers by kind; of those that leave, the ones that had begun.
        times_us: latency of whole answers to short prompts, from when they were due; taken out by
            whoever reports them.
    """

    complete: Counter[Kind] = field(default_factory=Counter[Kind])
    errors: int = 0
    times_us: list[float] = field(default_factory=list)

    @property
    def billed(self) -> int:
        """Answers that clients have in full: so many usage events have to be complete."""
        return sum(self.complete.values()) - self.complete[Kind.ABORT]


class _Caller(asyncio.Protocol):
    """A connection: one request at a time, of any kind."""

    def __init__(self, traffic: MixedLoad) -> None:
        self._traffic = traffic
        self._kind = Kind.WHOLE
        self._due = 0.0
        self._tail = b""
        self._received = self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, kind: Kind, due: float) -> None:
        self._kind, self._due = kind, due
        self._received = self._length = 0
        self._tail = b""
        self.transport.write(self._traffic.requests[kind])

    def data_received(self, data: bytes) -> None:
        if not self._received and not data.startswith(b"HTTP/1.1 200"):
            self._traffic.answers.errors += 1
        if not self._received:
            head = data.partition(b"\r\n\r\n")[0].lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._length = len(head) + 4 + int(length) if length else 0
        self._received += len(data)
        self._tail = (self._tail + data)[-len(END_OF_STREAM) :]
        if self._kind is Kind.ABORT:
            self.transport.abort()
            self._traffic.ended(self, self._kind, self._due, reusable=False)
        elif self._received >= self._length > 0 or (
            not self._length and self._tail == END_OF_STREAM
        ):
            self._traffic.ended(self, self._kind, self._due, reusable=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._traffic.gone(self)


class MixedLoad:
    """Clients of one server, on the running loop.

    Attributes:
        answers: what they saw so far.
        rate: requests per second; None: each answer brings the next request.
    """

    def __init__(self, port: int, *, models: dict[Kind, str]) -> None:
        self.answers = Answers()
        self.rate: int | None = None
        self.requests = {
            kind: request_bytes(
                model,
                stream=kind in {Kind.STREAM, Kind.ABORT},
                prompt_bytes=LONG_PROMPT_BYTES if kind is Kind.LONG_PROMPT else 300,
            )
            for kind, model in models.items()
        }
        self._port = port
        self._kinds = cycle(MIX)
        self._idle: list[_Caller] = []
        self._busy: set[_Caller] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._closed = False

    async def flat_out(self, *, connections: int, seconds: float) -> float:
        """Answers per second with so many callers that wait for theirs."""
        self.rate = None
        for _ in range(connections):
            await self._begin(time.perf_counter())
        await asyncio.sleep(seconds / 4)
        before, begun = sum(self.answers.complete.values()), time.perf_counter()
        await asyncio.sleep(seconds * 3 / 4)
        done = sum(self.answers.complete.values()) - before
        per_second = done / (time.perf_counter() - begun)
        self.rate = 0
        await self.settled()
        return per_second

    async def steadily(self, rate: int, stop: asyncio.Event) -> None:
        """Send `rate` requests per second until `stop`, answered or not."""
        self.rate = rate
        begun, sent = time.perf_counter(), 0
        while not stop.is_set():
            await asyncio.sleep(TICK_SECONDS)
            due = int((time.perf_counter() - begun) * rate)
            for number in range(sent, due):
                await self._begin(begun + number / rate)
            sent = due
        await self.settled()

    async def settled(self) -> None:
        """Wait until every request was answered; those that are not are errors."""
        deadline = time.perf_counter() + GIVE_UP_SECONDS
        while self._busy and time.perf_counter() < deadline:  # noqa: ASYNC110  # at the end only
            await asyncio.sleep(0.05)
        self.answers.errors += len(self._busy)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for caller in [*self._idle, *self._busy]:
            caller.transport.abort()

    def ended(self, caller: _Caller, kind: Kind, due: float, *, reusable: bool) -> None:
        """A caller is done."""
        self._busy.discard(caller)
        self.answers.complete[kind] += 1
        if kind is Kind.WHOLE:
            self.answers.times_us.append((time.perf_counter() - due) * 1e6)
        if reusable:
            self._idle.append(caller)
        if self.rate is None:
            task = asyncio.get_running_loop().create_task(self._begin(time.perf_counter()))
            self._beginning.add(task)
            task.add_done_callback(self._beginning.discard)

    def gone(self, caller: _Caller) -> None:
        """A connection was closed."""
        if caller in self._busy and not self._closed:
            self._busy.discard(caller)
            self.answers.errors += 1
        if caller in self._idle:
            self._idle.remove(caller)

    async def _begin(self, due: float) -> None:
        kind = next(self._kinds)
        if self._idle:
            caller = self._idle.pop()
        else:
            loop = asyncio.get_running_loop()
            _, caller = await loop.create_connection(lambda: _Caller(self), "127.0.0.1", self._port)
        self._busy.add(caller)
        caller.send(kind, due)
