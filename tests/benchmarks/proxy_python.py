"""`make bench NAME=proxy_python`: what a request costs in the proxy's own code, by part.

No sockets and no waiting for a disk: client and engine are transports in memory, so that a change
of a microsecond shows in seconds. The figure is the least of many short rounds, which a busy
machine disturbs least. Parts are a profile's: their sum is far above the figure, as a profiler
costs more than what it watches; only compare them with each other.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop

from api.interpreter import keep_freed_memory, tune_interpreter
from api.proxy.app import create_app
from api.proxy.client_connection import ClientConnection
from api.proxy.server import Server
from billing.journal.disk import Disk
from billing.journal.journal import Journal
from tests.benchmarks.proxy_world import NOBODY, FixedControl, request_bytes, snapshot
from tests.benchmarks.report import Figure, publish
from tests.fake_engine import fast

CONNECTIONS = 32
ROUNDS = 40
PROMPTS = {"0.1k": (100, 1_600), "200k": (200_000, 320)}
SHOWN = 40
READ_BYTES = 256 << 10  # as much as uvloop reads at a time


class _NoSync(Disk):
    def sync(self, descriptor: int) -> None:
        del descriptor


class _Transport:
    """What the proxy asks of a transport that is never full and never closed."""

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


class _Engine(_Transport):
    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self._protocol = protocol

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        del parts
        self._loop.call_soon(self._protocol.data_received, fast.WHOLE)


class _Loop(uvloop.Loop):
    """Every address is an engine in memory."""

    async def create_connection(
        self, protocol_factory: Callable[[], Any], *_: Any, **__: Any
    ) -> Any:
        protocol = protocol_factory()
        transport = _Engine(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Client(_Transport):
    """Sends the request again with every answer, so many times."""

    def __init__(self, server: Server, request: bytes) -> None:
        self._loop = server.loop
        self._parts = [
            request[start : start + READ_BYTES] for start in range(0, len(request), READ_BYTES)
        ]
        self._left = 0
        self._idle = server.loop.create_future()
        self._protocol = ClientConnection(server)
        self._protocol.connection_made(cast("asyncio.BaseTransport", self))

    async def send(self, times: int) -> None:
        self._left = times
        self._idle = self._loop.create_future()
        self._send()
        await self._idle

    def _send(self) -> None:
        for part in self._parts:
            self._loop.call_soon(self._protocol.data_received, part)

    def write(self, answer: bytes) -> None:
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit("the proxy answered with something else than 200")
        self._left -= 1
        if self._left:
            self._send()
        else:
            self._idle.set_result(None)


async def _measure(prompt_bytes: int, requests: int) -> tuple[float, cProfile.Profile]:
    """CPU µs of the event loop's thread per request, and a profile of a round."""
    with tempfile.TemporaryDirectory() as folder:
        journal = await Journal.open(Path(folder), disk=_NoSync())
        app = create_app(FixedControl(snapshot({"tiny": 1}, NOBODY)), journal)
        server = Server(app)
        request = request_bytes("tiny", stream=False, prompt_bytes=prompt_bytes)
        clients = [_Client(server, request) for _ in range(CONNECTIONS)]
        least = float("inf")
        for _ in range(ROUNDS):
            before = time.thread_time_ns()
            await asyncio.gather(*(each.send(requests // CONNECTIONS) for each in clients))
            least = min(least, (time.thread_time_ns() - before) / 1000 / requests)
        with cProfile.Profile(time.thread_time_ns, 1e-9) as profile:
            await asyncio.gather(*(each.send(requests // CONNECTIONS) for each in clients))
        server.stop()
        server.connections.clear()
        await server.until_stopped()
    return least, profile


def _show(profile: cProfile.Profile, requests: int) -> None:
    statistics = cast("dict[tuple[str, int, str], Any]", pstats.Stats(profile).stats)  # type: ignore[attr-defined]  # typeshed hides it
    rows = sorted(statistics.items(), key=lambda row: -row[1][2])[:SHOWN]
    print("  calls  own µs  all µs  (per request)")
    for (file, line, name), (_, calls, own, whole, _) in rows:
        per = [figure / requests for figure in (calls, own * 1e6, whole * 1e6)]
        print("{:7.2f} {:7.2f} {:7.2f}  {}:{} {}".format(*per, Path(file).name, line, name))


def main() -> None:
    """Measure, show the profile of small requests, publish."""
    tune_interpreter()
    keep_freed_memory()
    figures: list[Figure] = []
    for size, (prompt_bytes, requests) in PROMPTS.items():
        with asyncio.Runner(loop_factory=_Loop) as runner:
            least, profile = runner.run(_measure(prompt_bytes, requests))
        if not figures:
            _show(profile, requests)
        name = f"proxy.whole.{size}.python"
        figures.append(Figure(name=name, value=least, unit="µs CPU/answer, no sockets or fsync"))
    publish("proxy_python", figures)


if __name__ == "__main__":
    main()
