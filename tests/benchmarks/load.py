"""A load generator: so many connections, each with one request at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import cast

END_OF_STREAM = b"0\r\n\r\n"


@dataclass(slots=True)
class Load:
    """What was done in a run.

    Attributes:
        times_us: latency of each whole answer.
    """

    answers: int = 0
    errors: int = 0
    seconds: float = 0.0
    stopping: bool = False
    times_us: list[int] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds

    @property
    def p50_us(self) -> float:
        return statistics.median(self.times_us)

    @property
    def p99_us(self) -> float:
        return statistics.quantiles(self.times_us, n=100)[98]


class _Caller(asyncio.Protocol):
    """Sends the request, waits for the end of the answer, sends it again."""

    def __init__(self, request: bytes, load: Load, *, stream: bool) -> None:
        self._request = request
        self._load = load
        self._stream = stream
        self._length = 0
        self._received = 0
        self._tail = b""
        self._began = 0
        self.idle = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter_ns()
        self._received = 0
        self._tail = b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._received == 0 and not data.startswith(b"HTTP/1.1 200"):
            self._load.errors += 1
        self._received += len(data)
        if self._stream:
            self._tail = (self._tail + data)[-len(END_OF_STREAM) :]
            if self._tail != END_OF_STREAM:
                return
        else:
            if not self._length:
                # All answers of a run are equally long, so the first one's head is enough.
                head, _, _ = data.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                self._length = len(head) + 4 + int(length)
            if self._received < self._length:
                return
        self._load.answers += 1
        self._load.times_us.append((time.perf_counter_ns() - self._began) // 1000)
        if self._load.stopping:
            self._rest()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle.done():
            self._load.errors += 1
            self._rest()

    def _rest(self) -> None:
        if not self.idle.done():
            self.idle.set_result(None)
        self._transport.close()


async def run_load(
    port: int,
    request: bytes,
    *,
    connections: int,
    seconds: float,
    stream: bool,
    until_lost: bool = False,
) -> Load:
    """Load a server for a while; every request begun is waited for.

    Args:
        until_lost: the server is going to be killed; end when it is gone.
    """
    loop = asyncio.get_running_loop()
    load = Load()
    began = time.perf_counter()
    callers: list[_Caller] = []
    for _ in range(connections):
        _, caller = await loop.create_connection(
            lambda: _Caller(request, load, stream=stream), "127.0.0.1", port
        )
        callers.append(caller)
    idle = asyncio.gather(*(caller.idle for caller in callers))
    await asyncio.wait([idle], timeout=seconds)
    if until_lost and not idle.done():
        raise RuntimeError("the server was not killed")
    load.stopping = True
    await idle
    load.seconds = time.perf_counter() - began
    return load
