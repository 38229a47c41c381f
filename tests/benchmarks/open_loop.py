"""Requests at an even rate, whether earlier ones are answered or not.

Latency counts from the instant at which a request was due: a server that stalls does not get
fewer requests for it, as it would from callers that wait.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import cast

from tests.benchmarks.load import END_OF_STREAM

AHEAD = 8


@dataclass(slots=True)
class Seen:
    """What clients saw.

    Attributes:
        first_us: from due to the first byte of the answer.
        whole_us: from due to its last byte.
        gaps_us: between two reads of one answer.
        begun: requests sent; events: read of streams.
    """

    first_us: list[float] = field(default_factory=list)
    whole_us: list[float] = field(default_factory=list)
    gaps_us: list[float] = field(default_factory=list)
    errors: int = 0
    begun: int = 0
    events: int = 0


def percentile(values: list[float], share: int) -> float:
    """The `share`-th percentile."""
    return statistics.quantiles(values, n=100)[share - 1]


class _Caller(asyncio.Protocol):
    def __init__(self, seen: Seen, idle: list[_Caller]) -> None:
        self._seen = seen
        self._idle = idle
        self._due = 0.0
        self._last = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        self._due, self._last, self._received = due, 0.0, b""
        self._seen.begun += 1
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._last:
            self._seen.errors += not data.startswith(b"HTTP/1.1 200")
            self._seen.first_us.append((now - self._due) * 1e6)
        else:
            self._seen.gaps_us.append((now - self._last) * 1e6)
        self._last = now
        self._seen.events += data.count(b"\n\n")
        self._received = (self._received + data)[-65_536:]
        if self._complete():
            self._seen.whole_us.append((now - self._due) * 1e6)
            self._idle.append(self)

    def _complete(self) -> bool:
        head, blank, body = self._received.partition(b"\r\n\r\n")
        if blank and b"content-length" in head.lower():
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            return len(body) >= int(length)
        return self._received.endswith(END_OF_STREAM)


async def at_rate(port: int, request: bytes, *, per_second: int, seconds: float) -> Seen:
    """Send requests when they are due, each on a connection that is free or new.

    Some are open before: in a short turn the wait for new ones would be the slowest hundredth.
    """
    loop = asyncio.get_running_loop()
    seen, idle = Seen(), list[_Caller]()

    async def connected() -> _Caller:
        _, caller = await loop.create_connection(lambda: _Caller(seen, idle), "127.0.0.1", port)
        return caller

    idle += [await connected() for _ in range(AHEAD)]
    begun = time.perf_counter() + 0.1
    for number in range(int(per_second * seconds)):
        due = begun + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        caller = idle.pop() if idle else await connected()
        caller.send(request, due)
    deadline = time.perf_counter() + 30
    while len(seen.whole_us) < int(per_second * seconds) and time.perf_counter() < deadline:  # noqa: ASYNC110  # at the end only
        await asyncio.sleep(0.05)
    seen.errors += int(per_second * seconds) - len(seen.whole_us)
    for caller in idle:
        caller.transport.close()
    return seen


async def paced_streams(
    port: int, request: bytes, seen: Seen, *, streams: int, over_seconds: float
) -> None:
    """Open many streams, spread over a while, and read each to its end."""
    loop = asyncio.get_running_loop()
    idle = list[_Caller]()
    for _ in range(streams):
        _, caller = await loop.create_connection(lambda: _Caller(seen, idle), "127.0.0.1", port)
        caller.send(request, time.perf_counter())
        await asyncio.sleep(over_seconds / streams)
    while len(idle) < streams:  # noqa: ASYNC110  # at the end only
        await asyncio.sleep(0.1)
    for caller in idle:
        caller.transport.close()
