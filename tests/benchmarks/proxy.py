"""`make bench NAME=proxy`: what a metered request costs, beside what a blind relay costs.

The proxy runs as in production (uvloop, the durable journal on disk) on one core; load and engine
share another. Beside it, on the same core and in turns with it, run a blind relay and, where it is
installed, nginx; `direct` is the engine without any of them. Turns are short and many: a machine
may be slower for seconds or minutes, so a ratio is the median of the ratios of neighbours.

CPU per request, from the kernel's accounting of the whole process, is the figure to trust: rates
are capped by the generator, which is Python too. `ROUNDS=long` takes the sustained load to 60 s;
`proxy_sustained.py` says what it is.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
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
from tests.benchmarks.turns import Contender, in_turns
from tests.fake_engine import fast

TURN_SECONDS = 0.5
TURNS_BESIDE_LONG = 3
PACE_MS = 100
PACED_CHUNKS = 25
FIRST_MS = 20
PACED_STREAMS = 400
OPENED_IN_SECONDS = 0.5
MANY_STREAMS = 1_000
LONG_BESIDE = 20
PER_SECOND = 200
AT_RATE_SECONDS = 0.75
RECORD_BYTES = 400
PROMPTS = {"0.1k": 100, "4k": 4_000, "200k": 200_000}
ENGINES = {"tiny": (0, 0), "paced": (PACE_MS, 0, PACED_CHUNKS), "slow": (0, FIRST_MS)}
LONG = os.environ.get("ROUNDS") == "long"


def measured(
    contender: Contender, *, stream: bool, connections: int, prompt_bytes: int
) -> tuple[float, float]:
    """Run one load: CPU µs per answer that the server spent, and answers per second."""
    server = contender.servers["tiny"]
    request = request_bytes("tiny", stream=stream, prompt_bytes=prompt_bytes)
    before = cpu_us(server.pid)
    load = uvloop.run(
        run_load(server.port, request, connections=connections, seconds=TURN_SECONDS, stream=stream)
    )
    if load.errors:
        sys.exit(f"{contender.name} answered with something else than 200")
    contender.answers += load.answers
    return (cpu_us(server.pid) - before) / load.answers, load.per_second


def sizes(contenders: Sequence[Contender]) -> None:
    """CPU and rate for prompts of several sizes."""
    for size, prompt_bytes in PROMPTS.items():
        for kind, stream, connections in (("whole", False, 32), ("stream", True, 16)):
            turn = partial(
                measured, stream=stream, connections=connections, prompt_bytes=prompt_bytes
            )
            found = in_turns({each.name: partial(turn, each) for each in contenders})
            for each in contenders:
                used_us, per_second = zip(*found[each.name], strict=True)
                what = f"{kind}.{size}"
                each.add(f"{what}.cpu", used_us, "µs CPU/answer")
                each.add(f"{what}.rate", per_second, "answers/s")


def latency(contenders: Sequence[Contender], folder: Path) -> list[Figure]:
    """What each adds to a direct call at an even rate.

    The relay's part is any proxy's on this machine. A whole answer of ours waits for a durable
    write besides, so the disk takes turns with them, too; a stream's was begun when its engine was.
    """
    writes = {"disk": partial(durable_writes, folder)}
    whole = in_turns(
        {each.name: partial(_even, each, stream=False) for each in contenders} | writes
    )
    first = in_turns({each.name: partial(_even, each, stream=True) for each in contenders})
    for each in contenders:
        if each.name != "direct":
            beside = "disk.p50" if each.name == "proxy" else ""
            _add_latency(each, "whole", whole[each.name], whole["direct"], beside=beside)
            _add_latency(each, "ttft", first[each.name], first["direct"])
    unit = f"µs for a durable write of {RECORD_BYTES} bytes, {PER_SECOND}/s"
    return [
        Figure.of_turns("disk.p50", _medians(whole["disk"]), unit),
        Figure(name="disk.p99", value=_slow(whole["disk"]), unit=unit),
    ]


def _even(contender: Contender, *, stream: bool) -> list[float]:
    """Requests at an even rate: µs from the instant at which each is due to its answer's end, of a
    stream its first byte."""
    port, request = contender.servers["slow"].port, request_bytes("slow", stream=stream)
    seen = uvloop.run(at_rate(port, request, per_second=PER_SECOND, seconds=AT_RATE_SECONDS))
    if seen.errors:
        sys.exit(f"{contender.name} did not answer a request at an even rate")
    contender.answers += len(seen.whole_us)
    return seen.first_us if stream else seen.whole_us


def _add_latency(
    contender: Contender,
    what: str,
    own: list[list[float]],
    direct: list[list[float]],
    *,
    beside: str = "",
) -> None:
    unit = f"µs more than a direct call, {PER_SECOND}/s"
    pairs = zip(_medians(own), _medians(direct), strict=True)
    contender.add(f"{what}.p50.added", [mine - other for mine, other in pairs], unit, beside=beside)
    contender.add(f"{what}.p99.added", [_slow(own) - _slow(direct)], unit, beside="")


def _medians(turns: list[list[float]]) -> list[float]:
    return [percentile(turn, 50) for turn in turns]


def _slow(turns: Sequence[list[float]]) -> float:
    """The 99th percentile over all turns: one has too few answers to tell it."""
    return percentile([*chain.from_iterable(turns)], 99)


def durable_writes(folder: Path) -> list[float]:
    """µs that the disk alone takes for a journal's write at that rate: no answer leaves before."""
    disk, taken, times = Disk(), list[float](), int(PER_SECOND * TURN_SECONDS)
    descriptor = os.open(folder / "durable", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    disk.lay_out(descriptor, 0, RECORD_BYTES * times)
    for number in range(times):
        time.sleep(1 / PER_SECOND)
        begun = time.perf_counter()
        disk.write_through(descriptor, b"x" * RECORD_BYTES, number * RECORD_BYTES)
        taken.append((time.perf_counter() - begun) * 1e6)
    os.close(descriptor)
    return taken


def paced(contenders: Sequence[Contender]) -> None:
    """CPU per chunk and gaps of paced streams, with long prompts beside them, and memory with a
    thousand open."""
    unit, pace_us = f"{PACED_STREAMS} streams", PACE_MS * 1000
    alone = in_turns({each.name: partial(_paced, each) for each in contenders})
    beside = in_turns(
        {each.name: partial(_paced_beside_long, each) for each in contenders}, TURNS_BESIDE_LONG
    )
    for each in contenders:
        per_chunk, gaps_us = zip(*alone[each.name], strict=True)
        each.add("paced.cpu", per_chunk, f"µs CPU/chunk, {unit} open, a chunk each {PACE_MS} ms")
        late = f"µs later than {PACE_MS} ms, {unit}"
        each.add("paced.gap.p99", [_slow(gaps_us) - pace_us], late)
        late = f"{late}, {LONG_BESIDE} prompts/s of 200 KB beside"
        each.add("paced.gap.p99.beside_200k", [_slow(beside[each.name]) - pace_us], late)
        each.add("paced.memory", [_memory(each)], f"MiB (PSS), {MANY_STREAMS} streams")


def _paced(contender: Contender) -> tuple[float, list[float]]:
    """CPU µs per chunk while all streams were open, and all gaps."""
    return uvloop.run(_watched(contender))


async def _watched(contender: Contender) -> tuple[float, list[float]]:
    pid, seen = contender.servers["paced"].pid, Seen()
    reading = asyncio.create_task(_read_paced(contender, seen))
    while seen.begun < PACED_STREAMS:  # noqa: ASYNC110  # an event would cost more than it tells
        await asyncio.sleep(0.01)
    before, chunks = cpu_us(pid), seen.events
    while not seen.whole_us:  # noqa: ASYNC110  # as above
        await asyncio.sleep(0.01)
    if seen.events == chunks:
        sys.exit("streams ended before all were open: the machine has no time for this benchmark")
    per_chunk = (cpu_us(pid) - before) / (seen.events - chunks)
    await reading
    return per_chunk, seen.gaps_us


async def _read_paced(contender: Contender, seen: Seen, streams: int = PACED_STREAMS) -> None:
    port, request = contender.servers["paced"].port, request_bytes("paced", stream=True)
    await paced_streams(port, request, seen, streams=streams, over_seconds=OPENED_IN_SECONDS)
    if seen.errors:
        sys.exit(f"{contender.name} answered with something else than 200")
    contender.answers += streams


def _paced_beside_long(contender: Contender) -> list[float]:
    """Gaps of paced streams while others send long prompts."""

    async def both() -> tuple[None, Seen]:
        port = contender.servers["tiny"].port
        long = request_bytes("tiny", stream=False, prompt_bytes=PROMPTS["200k"])
        seconds = PACED_CHUNKS * PACE_MS / 1000
        return await asyncio.gather(
            _read_paced(contender, seen),
            at_rate(port, long, per_second=LONG_BESIDE, seconds=seconds),
        )

    seen = Seen()
    _, beside = uvloop.run(both())
    if beside.errors:
        sys.exit(f"{contender.name} answered with something else than 200")
    contender.answers += len(beside.whole_us)
    return seen.gaps_us


def _memory(contender: Contender) -> float:
    """The most that it had while many streams were open, MiB."""
    pid, memory, stopping = contender.servers["paced"].pid, list[float](), threading.Event()

    def watch() -> None:
        while not stopping.wait(0.25):
            memory.append(shared_out_mib(pid))

    watching = threading.Thread(target=watch)
    watching.start()
    uvloop.run(_read_paced(contender, Seen(), MANY_STREAMS))
    stopping.set()
    watching.join()
    return max(memory)


@contextmanager
def contenders(ports: dict[str, int], folder: Path) -> Iterator[list[Contender]]:
    """nginx if there is one, a blind relay, the proxy, and the engines themselves: in an order in
    which each is a neighbour of what it is compared with."""
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
        found = [Contender("relay", relays)]
        if servers := running.enter_context(nginx(1, ports, folder)):
            found.insert(0, Contender("nginx", servers))
        own = free_port()
        pid = running.enter_context(child(1, run_proxy, own, ports, folder / "journal"))
        found.append(Contender("proxy", dict.fromkeys(ports, Server(pid, own))))
        yield [*found, Contender("direct", direct)]


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
            figures = latency(running, Path(folder))
            paced([each for each in running if each.name != "direct"])
        (answers,) = (each.answers for each in running if each.name == "proxy")
        time.sleep(0.2)
        if (durable := durable_usages(Path(folder) / "journal")) != answers:
            sys.exit(f"{answers} answers, but {durable} usage events in the journal")
        figures += [figure for each in running for figure in each.figures]
        with child(0, fast.main, ports["tiny"], *ENGINES["tiny"]):
            figures += sustained(ports, seconds=60 if LONG else 10)
            figures += losses_of_a_kill(ports, rounds=10 if LONG else 3)
    publish("proxy", figures)


if __name__ == "__main__":
    main()
