"""`make bench NAME=proxy`: what a metered request costs, beside what a blind relay costs.

The proxy runs as in production (uvloop, the durable journal on disk) on one core; load
and engine share another. CPU per request, from the kernel's accounting of the whole process, is
the figure to trust: rates are capped by the generator, which is Python too.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from api.proxy.app import create_app
from api.proxy.server import serve
from billing.admission.backend import Backend, ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.journal.journal import Journal
from billing.journal.reader import list_instances, records_of, segments
from billing.journal.records import Usage
from billing.metering.token_class import TokenClass
from tests.benchmarks import relay
from tests.benchmarks.load import Load, run_load
from tests.benchmarks.report import FOLDER, Figure, publish
from tests.fake_engine import fast

KEY = "sk-sy-benchmar-0123456789abcdef0123456789abcdef"
SECONDS = 3.0
PACE_MS = 100
PACED_STREAMS = 400


class _FixedControl:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def look_up(self, key_digest: bytes) -> None:
        del key_digest


def _snapshot(engine_ports: dict[str, int]) -> Snapshot:
    classes = frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})
    models = {
        name: ServedModel(
            id=port,
            name=name,
            backends=(Backend(name=name, base_url=f"http://127.0.0.1:{port}", engine="vllm"),),
            classes=classes,
        )
        for name, port in engine_ports.items()
    }
    priced = dict.fromkeys(models, classes)
    return Snapshot(
        version=1,
        keys={
            hashlib.sha256(KEY.encode()).digest(): KeyGrant(
                key_id=1, tenant_id=1, project_id=1, may_infer=True
            )
        },
        terms={1: TenantTerms(tenant_id=1, price_version_id=1, priced=priced)},
        models=models,
    )


def run_proxy(port: int, engine_ports: dict[str, int], folder: Path) -> None:
    """Serve until SIGTERM."""

    async def main() -> None:
        journal = await Journal.open(folder)
        app = create_app(_FixedControl(_snapshot(engine_ports)), journal)
        await serve(app, "127.0.0.1", port)

    uvloop.run(main())


def request_bytes(model: str, *, stream: bool) -> bytes:
    """A request as the official client sends it: its headers, a short prompt."""
    flag = b',"stream":true' if stream else b""
    content = b"Tell me what a steelyard weighs, and for whom. " * 6
    body = b'{"messages":[{"role":"user","content":"%b"}],"model":"%b","max_tokens":100%b}' % (
        content,
        model.encode(),
        flag,
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Accept-Encoding: gzip, deflate\r\n"
        "Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        "User-Agent: OpenAI/Python 3.52.0\r\nX-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\n"
        "X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Async: false\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def child(core: int, target: Callable[..., None], port: int, *arguments: Any) -> Iterator[int]:
    """Run a server in a process of its own on one core; yields its pid."""
    process = multiprocessing.get_context("spawn").Process(
        target=_pinned, args=(core, target, port, *arguments), daemon=True
    )
    process.start()
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or not process.is_alive():
                    raise
                time.sleep(0.05)
        yield process.pid or 0
    finally:
        process.terminate()
        process.join(20)


def _pinned(core: int, target: Callable[..., None], *arguments: Any) -> None:
    _pin(core)
    target(*arguments)


def _pin(core: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def cpu_us(pid: int) -> float:
    """CPU time of a process so far, all threads."""
    run_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        run_ns += int((task / "schedstat").read_text().split()[0])
    return run_ns / 1000


class Server(NamedTuple):
    """A server under test; without a pid its CPU is not measured."""

    pid: int | None
    port: int


def measured(server: Server, model: str, *, stream: bool, connections: int) -> tuple[Load, float]:
    """Run one load; returns it with the CPU µs per answer that the server spent."""
    request = request_bytes(model, stream=stream)
    before = cpu_us(server.pid) if server.pid else 0.0
    load = uvloop.run(
        run_load(server.port, request, connections=connections, seconds=SECONDS, stream=stream)
    )
    if load.errors:
        sys.exit("a server answered with something else than 200")
    return load, (cpu_us(server.pid) - before) / load.answers if server.pid else 0.0


def durable_usages(folder: Path) -> int:
    """Usage events that a reader finds in the journal."""
    return sum(
        isinstance(record, Usage)
        for instance in list_instances(folder)
        for segment in segments(instance)
        for record in records_of(segment.path)
    )


def bench(name: str, server: Server, paced_server: Server) -> tuple[list[Figure], int]:
    """All figures of one server, and how many answers it gave."""

    def figure(what: str, value: float, unit: str) -> Figure:
        baseline = None if name == "relay" else f"relay.{what}"
        return Figure(name=f"{name}.{what}", value=value, unit=unit, baseline=baseline)

    whole, whole_us = measured(server, "tiny", stream=False, connections=32)
    stream, stream_us = measured(server, "tiny", stream=True, connections=16)
    paced, paced_us = measured(paced_server, "paced", stream=True, connections=PACED_STREAMS)
    figures = [
        figure("whole.rate", whole.per_second, "answers/s"),
        figure("whole.p50", whole.p50_us, "µs, 32 connections"),
        figure("whole.p99", whole.p99_us, "µs, 32 connections"),
        figure("stream.rate", stream.per_second, "streams/s"),
    ]
    if server.pid:
        figures += [
            figure("whole.cpu", whole_us, "µs CPU/answer"),
            figure("stream.cpu", stream_us, "µs CPU/stream"),
            figure("paced.cpu", paced_us / (fast.CHUNKS + 1), "µs CPU/chunk"),
        ]
    return figures, whole.answers + stream.answers + paced.answers


def main() -> None:
    """Measure the relay, the proxy, and the engine without either."""
    _pin(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ports = {"tiny": free_port(), "paced": free_port()}
    with (
        child(0, fast.main, ports["tiny"]),
        child(0, fast.main, ports["paced"], PACE_MS),
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
    ):
        near, far = free_port(), free_port()
        with (
            child(1, relay.main, near, ports["tiny"]) as pid,
            child(1, relay.main, far, ports["paced"]) as far_pid,
        ):
            figures, _ = bench("relay", Server(pid, near), Server(far_pid, far))
        port = free_port()
        with child(1, run_proxy, port, ports, Path(folder)) as pid:
            server = Server(pid, port)
            of_proxy, answers = bench("proxy", server, server)
        alone = [Server(None, ports[name]) for name in ("tiny", "paced")]
        of_engine, _ = bench("engine", *alone)
        if (durable := durable_usages(Path(folder))) != answers:
            sys.exit(f"{answers} answers, but {durable} usage events in the journal")
    publish("proxy", [*figures, *of_proxy, *of_engine])


if __name__ == "__main__":
    main()
