"""`make bench NAME=proxy`: what a metered request costs, beside what a blind relay costs.

The proxy runs as in production (uvloop, the durable journal on disk) on one core; load and engine
share another. CPU per request, from the kernel's accounting of the whole process, is the figure to
trust: rates are capped by the generator, which is Python too. `ROUNDS=long` takes the sustained
load to 60 s; `proxy_sustained.py` says what it is.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import uvloop

from tests.benchmarks import relay
from tests.benchmarks.load import Load, run_load
from tests.benchmarks.measures import cpu_us, shared_out_mib
from tests.benchmarks.open_loop import at_rate, paced_streams, percentile
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

SECONDS = 3.0
PACE_MS = 100
FIRST_MS = 20
PACED_STREAMS = 400
MANY_STREAMS = 1_000
PER_SECOND = 200
PROMPTS = {"0.1k": 100, "4k": 4_000, "200k": 200_000}
ENGINES = {"tiny": (0, 0), "paced": (PACE_MS, 0), "slow": (0, FIRST_MS)}
LONG = os.environ.get("ROUNDS") == "long"


def measured(
    server: Server, model: str, *, stream: bool, connections: int, prompt_bytes: int
) -> tuple[Load, float]:
    """Run one load; returns it with the CPU µs per answer that the server spent."""
    request = request_bytes(model, stream=stream, prompt_bytes=prompt_bytes)
    before = cpu_us(server.pid)
    load = uvloop.run(
        run_load(server.port, request, connections=connections, seconds=SECONDS, stream=stream)
    )
    if load.errors:
        sys.exit("a server answered with something else than 200")
    return load, (cpu_us(server.pid) - before) / load.answers


def figure(name: str, what: str, value: float, unit: str) -> Figure:
    """A figure of the proxy stands beside the relay's of the same run."""
    return Figure(
        name=f"{name}.{what}",
        value=value,
        unit=unit,
        baseline=None if name == "relay" else f"relay.{what}",
    )


def sizes(name: str, server: Server) -> tuple[list[Figure], int]:
    """CPU and rate for prompts of several sizes; how many answers it gave."""
    figures: list[Figure] = []
    answers = 0
    for size, prompt_bytes in PROMPTS.items():
        for kind, stream, connections in (("whole", False, 32), ("stream", True, 16)):
            load, used_us = measured(
                server, "tiny", stream=stream, connections=connections, prompt_bytes=prompt_bytes
            )
            answers += load.answers
            what = f"{kind}.{size}"
            figures.append(figure(name, f"{what}.cpu", used_us, "µs CPU/answer"))
            figures.append(figure(name, f"{what}.rate", load.per_second, "answers/s"))
    return figures, answers


def latency(name: str, server: Server, model: str) -> tuple[list[Figure], int]:
    """What clients see at an even rate, from the instant at which each request is due."""
    figures: list[Figure] = []
    answers = 0
    for stream in (False, True):
        request = request_bytes(model, stream=stream)
        seen = uvloop.run(at_rate(server.port, request, per_second=PER_SECOND, seconds=SECONDS * 2))
        if seen.errors:
            sys.exit("a request at an even rate was not answered")
        answers += len(seen.whole_us)
        times, what = (seen.first_us, "ttft") if stream else (seen.whole_us, "whole")
        for share in (50, 99):
            value = percentile(times, share) - FIRST_MS * 1000
            unit = f"µs beyond the engine's {FIRST_MS} ms, {PER_SECOND}/s"
            figures.append(figure(name, f"{what}.p{share}", value, unit))
    return figures, answers


def paced(name: str, server: Server) -> tuple[list[Figure], int]:
    """CPU and gaps of paced streams, and memory with a thousand of them open."""
    request = request_bytes("paced", stream=True)
    before = cpu_us(server.pid)
    seen = uvloop.run(paced_streams(server.port, request, streams=PACED_STREAMS))
    per_chunk = (cpu_us(server.pid) - before) / PACED_STREAMS / (fast.CHUNKS + 1)
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
    unit = f"{PACED_STREAMS} streams, a chunk each {PACE_MS} ms"
    return [
        figure(name, "paced.cpu", per_chunk, f"µs CPU/chunk, {unit}"),
        figure(name, "paced.gap.p99", percentile(seen.gaps_us, 99), f"µs between chunks, {unit}"),
        figure(name, "paced.memory", max(memory), f"MiB (PSS), {MANY_STREAMS} streams open"),
    ], PACED_STREAMS + MANY_STREAMS


def main() -> None:
    """Measure the relay, the proxy, and the engine without either."""
    # Here, because servers start as copies of this module, and one's memory is measured.
    from tests.benchmarks.proxy_sustained import losses_of_a_kill, sustained

    pin(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ports = {name: free_port() for name in ENGINES}
    figures: list[Figure] = []
    with (
        child(0, fast.main, ports["tiny"], *ENGINES["tiny"]),
        child(0, fast.main, ports["paced"], *ENGINES["paced"]),
        child(0, fast.main, ports["slow"], *ENGINES["slow"]),
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
    ):
        relays = {name: free_port() for name in ENGINES}
        with (
            child(1, relay.main, relays["tiny"], ports["tiny"]) as tiny,
            child(1, relay.main, relays["paced"], ports["paced"]) as slowly,
            child(1, relay.main, relays["slow"], ports["slow"]) as late,
        ):
            figures += sizes("relay", Server(tiny, relays["tiny"]))[0]
            figures += latency("relay", Server(late, relays["slow"]), "slow")[0]
            figures += paced("relay", Server(slowly, relays["paced"]))[0]
        port = free_port()
        with child(1, run_proxy, port, ports, Path(folder)) as pid:
            server = Server(pid, port)
            parts = [
                sizes("proxy", server),
                latency("proxy", server, "slow"),
                paced("proxy", server),
            ]
            for part, _ in parts:
                figures += part
        answers = sum(count for _, count in parts)
        time.sleep(0.2)
        if (durable := durable_usages(Path(folder))) != answers:
            sys.exit(f"{answers} answers, but {durable} usage events in the journal")
        figures += sustained(ports, seconds=60 if LONG else 10)
        figures += losses_of_a_kill(ports, rounds=10 if LONG else 3)
    publish("proxy", figures)


if __name__ == "__main__":
    main()
