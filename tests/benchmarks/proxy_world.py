"""The processes of the proxy's benchmarks: servers on one core, load and engine on another."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from api.interpreter import keep_freed_memory, tune_interpreter
from api.proxy.app import create_app
from api.proxy.server import serve
from billing.admission.backend import Backend, ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.journal.journal import Journal
from billing.journal.reader import list_instances, records_of, segments
from billing.journal.records import Attribution, Usage
from billing.metering.token_class import TokenClass

CORES = sorted(os.sched_getaffinity(0))
"""Of this process as it started: once it is pinned to one, its children start on that one only."""

KEY = "sk-sy-benchmar-0123456789abcdef0123456789abcdef"


class FixedControl:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    async def look_up(self, key_digest: bytes) -> None:
        del key_digest


def snapshot(engine_ports: dict[str, int], whose: Attribution) -> Snapshot:
    """One tenant and one key; a model per engine, named after it."""
    classes = frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})
    models = {
        name: ServedModel(
            id=whose.model_id,
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
                key_id=whose.key_id,
                tenant_id=whose.tenant_id,
                project_id=whose.project_id,
                may_infer=True,
            )
        },
        terms={
            whose.tenant_id: TenantTerms(
                tenant_id=whose.tenant_id, price_version_id=whose.price_version_id, priced=priced
            )
        },
        models=models,
    )


NOBODY = Attribution(
    tenant_id=1,
    project_id=1,
    key_id=1,
    model_id=1,
    price_version_id=1,
    backend="tiny",
    route="/v1/chat/completions",
    stream=False,
    served_model="tiny",
)


def run_proxy(
    port: int, engine_ports: dict[str, int], folder: Path, whose: Attribution = NOBODY
) -> None:
    """Serve until SIGTERM, as `python -m api.proxy` does, for one tenant."""

    async def main() -> None:
        journal = await Journal.open(folder)
        app = create_app(FixedControl(snapshot(engine_ports, whose)), journal)
        await serve(app, "127.0.0.1", port)

    tune_interpreter()
    keep_freed_memory()
    uvloop.run(main())


def request_bytes(model: str, *, stream: bool, prompt_bytes: int = 300) -> bytes:
    """A request as the official client sends it: its headers, and a prompt of some length."""
    flag = b',"stream":true' if stream else b""
    sentence = b"Tell me what a steelyard weighs, and for whom. "
    content = (sentence * (prompt_bytes // len(sentence) + 1))[:prompt_bytes]
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
        target=_pinned, args=(core_of(core), target, port, *arguments), daemon=True
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
    os.sched_setaffinity(0, {core})
    target(*arguments)


def pin(core: int) -> None:
    """Run on one core only."""
    os.sched_setaffinity(0, {core_of(core)})


def core_of(number: int) -> int:
    """The kernel's number of the core that is meant; the same one again where there is one only."""
    return CORES[number % len(CORES)]


class Server(NamedTuple):
    """A server under test."""

    pid: int
    port: int


def durable_usages(folder: Path) -> int:
    """Usage events that a reader finds in the journals."""
    return sum(
        isinstance(record, Usage)
        for instance in list_instances(folder)
        for segment in segments(instance)
        for record in records_of(segment.path)
    )
