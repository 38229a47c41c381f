"""Live requests of the demo: through the real proxy, journal and writer, to a simulated engine."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from billing.cli.demo.scene import Scene
from billing.cli.processes import Child, free_port, wait_until_ready
from billing.cli.simulated import write_backends
from billing.errors import NotFound, TieOutFailed
from billing.operations.metering.read_usage import request_of
from billing.store.database import Database, Role
from billing.store.usage.read import EventView
from billing.tenancy.tenant import Tenant

REQUESTS_PER_TENANT = 12
WORKERS = 6
VISIBLE_SECONDS = 10
PROMPTS = ("weigh the tokens", "settle the account of this month", "who was served and by whom")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRequest:
    """A finished request and what the engine told its client about it, in tokens."""

    tenant: str
    request_id: str
    prompt_tokens: int
    completion_tokens: int
    streamed: bool


@contextmanager
def data_plane(folder: Path, *, app_url: str, owner_url: str) -> Generator[str]:
    """Engine, writer and proxy as processes over a database; yields the proxy's URL."""
    engine_port, proxy_port = free_port(), free_port()
    backends = folder.joinpath("backends.yaml")
    write_backends(backends, engine_port)
    environment = {
        "STEELYARD_DATABASE_URL": app_url,
        "STEELYARD_MIGRATE_URL": owner_url,
        "STEELYARD_DATA_DIR": str(folder),
        "STEELYARD_BACKENDS": str(backends),
        "STEELYARD_PROXY_PORT": str(proxy_port),
    }
    log = folder.joinpath("processes.log").open("wb")
    engine = Child(
        name="simulated engine",
        module="api.simulated",
        arguments=("--port", str(engine_port)),
        log=log,
    )
    writer = Child(name="ledger writer", module="workers.writer", environment=environment, log=log)
    proxy = Child(name="proxy", module="api.proxy", environment=environment, log=log)
    url = f"http://127.0.0.1:{proxy_port}"
    started: list[Child] = []
    try:
        for child in (engine, writer, proxy):
            child.start()
            started.append(child)
        wait_until_ready(engine, f"http://127.0.0.1:{engine_port}/v1/models")
        wait_until_ready(proxy, f"{url}/healthz")
        yield url
    finally:
        for child in reversed(started):
            child.stop()
        log.close()


def send_requests(proxy_url: str, scene: Scene) -> list[LiveRequest]:
    """Send every tenant's requests, half of them as streams."""
    jobs = [
        (tenant.slug, number) for tenant in scene.tenants for number in range(REQUESTS_PER_TENANT)
    ]
    with (
        httpx.Client(base_url=proxy_url, timeout=30) as client,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        sending = [pool.submit(_send, client, scene, *job) for job in jobs]
        return [sent.result() for sent in sending]


def wait_until_visible(
    database: Database, tenants: Sequence[Tenant], requests: Sequence[LiveRequest]
) -> list[EventView]:
    """The usage events of requests, once all of them are in the ledger.

    Raises:
        TieOutFailed: one does not arrive, or differs from what its client was told.
    """
    by_slug = {tenant.slug: tenant for tenant in tenants}
    deadline = time.monotonic_ns() + VISIBLE_SECONDS * 1_000_000_000
    found: list[EventView] = []
    for request in requests:
        event = None
        while event is None:
            event = _event(database, by_slug[request.tenant], request)
            if event is None and time.monotonic_ns() > deadline:
                raise TieOutFailed("a completed request is not in the ledger", field="usage")
        counted = sum(
            int(event.quantities.get(f"tokens.{name}", 0)) for name in ("input", "cached_input")
        )
        output = int(event.quantities.get("tokens.output", 0))
        if (counted, output) != (request.prompt_tokens, request.completion_tokens):
            raise TieOutFailed("the ledger differs from what the client was told", field="usage")
        found.append(event)
    return found


def _event(database: Database, tenant: Tenant, request: LiveRequest) -> EventView | None:
    with database.transaction(Role.TENANT, tenant_id=tenant.id) as connection:
        try:
            return request_of(connection, tenant=tenant, request_id=request.request_id)
        except NotFound:
            return None


def _send(client: httpx.Client, scene: Scene, tenant: str, number: int) -> LiveRequest:
    streamed = number % 2 == 1
    body: dict[str, Any] = {
        "model": ("sim-small", "sim-large")[number % 3 == 0],
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
        "max_tokens": 8 + number,
    }
    if streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = {"Authorization": f"Bearer {scene.keys[tenant].text}"}
    with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        if not answer.is_success:
            answer.read()
            raise TieOutFailed(f"the proxy answered {answer.status_code}", field="live request")
        if streamed:
            usage = _streamed_usage(answer.iter_lines())
        else:
            usage = json.loads(answer.read())["usage"]
        return LiveRequest(
            tenant=tenant,
            request_id=answer.headers["x-steelyard-request-id"],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
            streamed=streamed,
        )


def _streamed_usage(lines: Iterator[str]) -> dict[str, int]:
    last: dict[str, int] = {}
    for line in lines:
        if line.startswith("data: {"):
            last = json.loads(line.removeprefix("data: ")).get("usage") or last
    return last
