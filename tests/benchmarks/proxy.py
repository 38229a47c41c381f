"""`make bench NAME=proxy`: what a metered request costs, beside what a blind relay costs.

The proxy runs as in production (uvloop, the durable journal on disk) on one core; load and engine
share another. Beside it, on the same core and in turns with it, run a blind relay and, where it is
installed, nginx; `direct` is the engine without any of them. A figure is the median of such rounds,
so that a machine that is slower for a while is slower for all.

CPU per request, from the kernel's accounting of the whole process, is the figure to trust: rates
are capped by the generator, which is Python too. `ROUNDS=long` takes the sustained load to 60 s;
`proxy_sustained.py` says what it is.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from billing.journal.disk import Disk
from tests.benchmarks import relay
from tests.benchmarks.load import run_load
from tests.benchmarks.measures import cpu_us, shared_out_mib
from tests.benchmarks.nginx import nginx
from tests.benchmarks.open_loop import Seen, at_rate, paced_streams, percentile
from tests.benchmarks.proxy_world import (
    Server,
    child,
    durable_usages,
    free_port,
    pin,
    request_bytes,
    run_proxy,
)
from tests.benchmarks.report import FOLDER, Figure, publish
from tests.fake_engine import fast

SECONDS = 1.0
TURNS = 3
PACE_MS = 100
FIRST_MS = 20
PACED_STREAMS = 400
MANY_STREAMS = 1_000
LONG_BESIDE = 20
PER_SECOND = 200
RECORD_BYTES = 400
PROMPTS = {"0.1k": 100, "4k": 4_000, "200k": 200_000}
ENGINES = {"tiny": (0, 0), "paced": (PACE_MS, 0), "slow": (0, FIRST_MS)}
LONG = os.environ.get("ROUNDS") == "long"


@dataclass(slots=True)
class Contender:
    """A way to the engines.

    Attributes:
        servers: by engine.
        answers: what it has answered so far.
    """

    name: str
    servers: dict[str, Server]
    answers: int = 0
    figures: list[Figure] = field(default_factory=list[Figure])

    def add(self, what: str, value: float, unit: str, beside: str = "relay") -> None:
        """A figure stands beside the relay's, or another's, of the same run."""
        self.figures.append(
            Figure(
                name=f"{self.name}.{what}",
                value=value,
                unit=unit,
                baseline=None if self.name in {beside, "direct"} else f"{beside}.{what}",
            )
        )


def measured(
    contender: Contender, *, stream: bool, connections: int, prompt_bytes: int
) -> tuple[float, float]:
    """Run one load: CPU µs per answer that the server spent, and answers per second."""
    server = contender.servers["tiny"]
    request = request_bytes("tiny", stream=stream, prompt_bytes=prompt_bytes)
    before = cpu_us(server.pid)
    load = uvloop.run(
        run_load(server.port, request, connections=connections, seconds=SECONDS, stream=stream)
    )
    if load.errors:
        sys.exit(f"{contender.name} answered with something else than 200")
    contender.answers += load.answers
    return (cpu_us(server.pid) - before) / load.answers, load.per_second


def sizes(contenders: Sequence[Contender]) -> None:
    """CPU and rate for prompts of several sizes."""
    for size, prompt_bytes in PROMPTS.items():
        for kind, stream, connections in (("whole", False, 32), ("stream", True, 16)):
            turns = [
                [
                    measured(
                        each, stream=stream, connections=connections, prompt_bytes=prompt_bytes
                    )
                    for each in contenders
                ]
                for _ in range(TURNS)
            ]
            for each, found in zip(contenders, zip(*turns, strict=True), strict=True):
                used_us, per_second = zip(*found, strict=True)
                what = f"{kind}.{size}"
                each.add(f"{what}.cpu", statistics.median(used_us), "µs CPU/answer")
                each.add(f"{what}.rate", statistics.median(per_second), "answers/s")


def latency(contenders: Sequence[Contender]) -> None:
    """What each adds to a direct call at an even rate, from the instant at which it is due."""
    for what, stream in (("whole", False), ("ttft", True)):
        request = request_bytes("slow", stream=stream)
        seen = [Seen() for _ in contenders]
        for _ in range(TURNS):
            for each, all_seen in zip(contenders, seen, strict=True):
                port = each.servers["slow"].port
                turn = uvloop.run(
                    at_rate(port, request, per_second=PER_SECOND, seconds=SECONDS * 2)
                )
                if turn.errors:
                    sys.exit(f"{each.name} did not answer a request at an even rate")
                each.answers += len(turn.whole_us)
                all_seen.whole_us += turn.first_us if stream else turn.whole_us
        direct = seen[0].whole_us
        for each, all_seen in zip(contenders[1:], seen[1:], strict=True):
            for share in (50, 99):
                added = percentile(all_seen.whole_us, share) - percentile(direct, share)
                each.add(
                    f"{what}.p{share}.added", added, f"µs more than a direct call, {PER_SECOND}/s"
                )


def durable_write(folder: Path) -> list[Figure]:
    """What the disk alone takes for a journal's write at that rate: no answer leaves before it."""
    disk, taken = Disk(), list[float]()
    descriptor = os.open(folder / "durable", os.O_RDWR | os.O_CREAT, 0o600)
    disk.lay_out(descriptor, 0, RECORD_BYTES * PER_SECOND)
    for number in range(PER_SECOND):
        time.sleep(1 / PER_SECOND)
        begun = time.perf_counter()
        disk.write_through(descriptor, b"x" * RECORD_BYTES, number * RECORD_BYTES)
        taken.append((time.perf_counter() - begun) * 1e6)
    os.close(descriptor)
    unit = f"µs for a durable write of {RECORD_BYTES} bytes, {PER_SECOND}/s"
    return [
        Figure(name=f"disk.p{share}", value=percentile(taken, share), unit=unit)
        for share in (50, 99)
    ]


def paced(contenders: Sequence[Contender]) -> None:
    """CPU per chunk and gaps of paced streams, with long prompts beside them, and memory with a
    thousand open."""
    request, unit = request_bytes("paced", stream=True), f"{PACED_STREAMS} streams"
    for each in contenders:
        server = each.servers["paced"]
        before = cpu_us(server.pid)
        seen = uvloop.run(paced_streams(server.port, request, streams=PACED_STREAMS))
        per_chunk = (cpu_us(server.pid) - before) / PACED_STREAMS / (fast.CHUNKS + 1)
        each.add("paced.cpu", per_chunk, f"µs CPU/chunk, {unit}, a chunk each {PACE_MS} ms")
        pace_us = PACE_MS * 1000
        late = f"µs later than {PACE_MS} ms, {unit}"
        each.add("paced.gap.p99", percentile(seen.gaps_us, 99) - pace_us, late)
        beside, long_answers = uvloop.run(_paced_beside_long(each))
        late = f"{late}, {LONG_BESIDE} prompts/s of 200 KB beside"
        each.add("paced.gap.p99.beside_200k", percentile(beside.gaps_us, 99) - pace_us, late)
        each.add("paced.memory", _memory(server, request), f"MiB (PSS), {MANY_STREAMS} streams")
        each.answers += 2 * PACED_STREAMS + MANY_STREAMS + long_answers


async def _paced_beside_long(contender: Contender) -> tuple[Seen, int]:
    """Paced streams while others send long prompts; how many those were."""
    servers = contender.servers
    long = request_bytes("tiny", stream=False, prompt_bytes=PROMPTS["200k"])
    streams, beside = await asyncio.gather(
        paced_streams(
            servers["paced"].port, request_bytes("paced", stream=True), streams=PACED_STREAMS
        ),
        at_rate(servers["tiny"].port, long, per_second=LONG_BESIDE, seconds=fast.CHUNKS / 10),
    )
    if streams.errors or beside.errors:
        sys.exit(f"{contender.name} answered with something else than 200")
    return streams, len(beside.whole_us)


def _memory(server: Server, request: bytes) -> float:
    """The most that it had while many streams were open, MiB."""
    memory = list[float]()
    stopping = threading.Event()

    def watch() -> None:
        while not stopping.wait(0.5):
            memory.append(shared_out_mib(server.pid))

    watching = threading.Thread(target=watch)
    watching.start()
    uvloop.run(paced_streams(server.port, request, streams=MANY_STREAMS))
    stopping.set()
    watching.join()
    return max(memory)


@contextmanager
def contenders(ports: dict[str, int], folder: Path) -> Iterator[list[Contender]]:
    """The engines themselves, a blind relay, nginx if there is one, and the proxy."""
    with ExitStack() as running:
        direct: dict[str, Server] = {}
        for name, port in ports.items():
            pid = running.enter_context(child(0, fast.main, port, *ENGINES[name]))
            direct[name] = Server(pid, port)
        relays: dict[str, Server] = {}
        for name, port in ports.items():
            own = free_port()
            pid = running.enter_context(child(1, relay.main, own, port))
            relays[name] = Server(pid, own)
        found = [Contender("direct", direct), Contender("relay", relays)]
        if servers := running.enter_context(nginx(1, ports, folder)):
            found.append(Contender("nginx", servers))
        own = free_port()
        pid = running.enter_context(child(1, run_proxy, own, ports, folder / "journal"))
        found.append(Contender("proxy", dict.fromkeys(ports, Server(pid, own))))
        yield found


def main() -> None:
    """Measure the engine, the relay, nginx and the proxy in turns."""
    # Here, because servers start as copies of this module, and one's memory is measured.
    from tests.benchmarks.proxy_sustained import losses_of_a_kill, sustained

    pin(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ENGINES}
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        with contenders(ports, Path(folder)) as running:
            sizes(running)
            latency(running)
            paced(running[1:])
        answers = running[-1].answers
        time.sleep(0.2)
        if (durable := durable_usages(Path(folder) / "journal")) != answers:
            sys.exit(f"{answers} answers, but {durable} usage events in the journal")
        figures = durable_write(Path(folder))
        figures += [figure for each in running for figure in each.figures]
        with child(0, fast.main, ports["tiny"], *ENGINES["tiny"]):
            figures += sustained(ports, seconds=60 if LONG else 10)
            figures += losses_of_a_kill(ports, rounds=10 if LONG else 3)
    publish("proxy", figures)


if __name__ == "__main__":
    main()
