"""A proxy in front of two backends that keep objects, with keys of two tenants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.binding_port import IntendedBatch
from api.proxy.limit_errors import LimitReached, credit_limit
from api.proxy.limits import Limits
from api.proxy.openai_errors import Unavailable
from api.proxy.server import serving
from api.proxy.telemetry.recorder import Recorder
from billing.admission.backend import Backend, ServedModel
from billing.admission.binding import Binding, ObjectKind
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.errors import UpstreamError
from billing.metering.token_class import TokenClass
from tests.api.proxy.conftest import (
    BLIND_KEY,
    KEY,
    MemoryControl,
    MemoryJournal,
    RawClient,
    digest,
    until,
)
from tests.fake_engine.files_shapes import KeepingEngine, keeping_engine

OTHER_KEY = "sk-sy-otherkey-0123456789abcdef0123456789abcdef"
TENANT, OTHER_TENANT = 7, 70
TEXT = frozenset(TokenClass)
KEEPS = frozenset({"files", "batches", "responses"})


class MemoryBindings:
    """Bindings in memory; `gate` closed = the database is slow.

    Attributes:
        intended: batches that may run, by the id of their request.
        batches: those that run, by their backend's id.
        credit: what is left of everybody's, in 10⁻¹² of the major unit.
    """

    def __init__(self) -> None:
        self.bound: dict[tuple[ObjectKind, str], Binding] = {}
        self.intended: dict[str, IntendedBatch] = {}
        self.batches: dict[str, IntendedBatch] = {}
        self.credit = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.away = False
        self.healthy = True
        self.found: list[str] = []
        self.awaited: set[str] = set()

    async def _answer(self) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.away:
            self.healthy = False
            raise Unavailable("Stored objects cannot be reached at the moment; please retry.")

    async def bind(self, bindings: Sequence[Binding]) -> None:
        await self._answer()
        for binding in bindings:
            owner = self.bound.setdefault((binding.kind, binding.object_id), binding)
            if (owner.tenant_id, owner.backend) != (binding.tenant_id, binding.backend):
                raise UpstreamError("The inference backend's answer cannot be used.")

    async def intend(self, batch: IntendedBatch) -> None:
        await self._answer()
        if batch.credit is not None and batch.most > self.credit:
            limit = credit_limit(batch.credit, "USD")
            raise LimitReached(limit, used=0, capacity=self.credit, resets_us=None, now_us=0)
        self.intended[batch.binding.object_id] = batch

    async def record(
        self, batch: IntendedBatch, batch_id: str, bindings: Sequence[Binding]
    ) -> None:
        await self.bind([replace(batch.binding, object_id=batch_id), *bindings])
        self.batches[batch_id] = self.intended.pop(batch.binding.object_id)

    async def give_up(self, batch: IntendedBatch) -> None:
        await self._answer()
        del self.intended[batch.binding.object_id]

    async def find(self, *, tenant_id: int, kind: ObjectKind, object_id: str) -> Binding | None:
        await self._answer()
        self.found.append(object_id)
        found = self.bound.get((kind, object_id))
        return found if found is not None and found.tenant_id == tenant_id else None

    async def page(
        self,
        *,
        tenant_id: int,
        kind: ObjectKind,
        after: str | None,
        limit: int,
        oldest_first: bool,
    ) -> tuple[Sequence[Binding], bool]:
        await self._answer()
        found = [
            binding
            for binding in self.bound.values()
            if (binding.tenant_id, binding.kind) == (tenant_id, kind)
        ]
        if not oldest_first:
            found.reverse()
        ids = [binding.object_id for binding in found]
        start = 0 if after is None else ids.index(after) + 1 if after in ids else len(ids)
        return found[start : start + limit], len(found) > start + limit

    async def is_awaited(self, binding: Binding) -> bool:
        await self._answer()
        return binding.object_id in self.awaited

    async def forget(self, binding: Binding) -> None:
        await self._answer()
        del self.bound[binding.kind, binding.object_id]


def snapshot_of(first: str, second: str) -> Snapshot:
    """`tiny` is served by both backends, `solo` by the second, `chat` by one that keeps nothing."""
    one = Backend(name="a", base_url=first, engine="vllm", stores=KEEPS, api_key="secret")
    two = Backend(name="b", base_url=second, engine="vllm", stores=KEEPS)
    plain = replace(one, name="c", stores=frozenset())
    models = {
        "tiny": ServedModel(id=1, name="tiny", backends=(one, two), classes=TEXT),
        "solo": ServedModel(id=2, name="solo", backends=(two,), classes=TEXT),
        "chat": ServedModel(id=3, name="chat", backends=(plain,), classes=TEXT),
        "dear": ServedModel(id=4, name="dear", backends=(one,), classes=TEXT),
    }
    priced = {name: TEXT for name in models if name != "dear"}
    grant = KeyGrant(key_id=9, tenant_id=TENANT, project_id=8, may_infer=True)
    other = KeyGrant(key_id=90, tenant_id=OTHER_TENANT, project_id=80, may_infer=True)
    return Snapshot(
        version=1,
        keys={
            digest(KEY): grant,
            digest(OTHER_KEY): other,
            digest(BLIND_KEY): replace(grant, may_infer=False),
        },
        terms={
            tenant: TenantTerms(tenant_id=tenant, price_version_id=31, priced=priced)
            for tenant in (TENANT, OTHER_TENANT)
        },
        models=models,
    )


def request_line(custom_id: str = "1", **changes: Any) -> dict[str, Any]:
    """A line of a file of requests."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return {**line, **changes}


def file_of(*lines: dict[str, Any]) -> bytes:
    """A file of requests."""
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass(slots=True)
class Keep:
    """Everything of one test.

    Attributes:
        first, second: the backends `a` and `b`.
        mine, theirs: clients of two tenants.
    """

    first: KeepingEngine
    second: KeepingEngine
    control: MemoryControl
    journal: MemoryJournal
    bindings: MemoryBindings
    app: Proxy
    port: int
    mine: httpx.AsyncClient
    theirs: httpx.AsyncClient
    stack: AsyncExitStack = field(repr=False)

    @property
    def asked(self) -> list[str]:
        """Paths that reached a backend."""
        return [*self.first.paths, *self.second.paths]

    async def upload(
        self, content: bytes = b"", client: httpx.AsyncClient | None = None, **headers: str
    ) -> httpx.Response:
        """Upload a file of requests."""
        return await (client or self.mine).post(
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": ("x.jsonl", content or file_of(request_line()))},
            headers=headers,
        )

    async def submit(self, file_id: str, **members: object) -> httpx.Response:
        """Make a batch of a file."""
        body = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **members}
        return await self.mine.post("/v1/batches", json={"input_file_id": file_id, **body})

    async def respond(
        self, client: httpx.AsyncClient | None = None, **members: object
    ) -> httpx.Response:
        """Ask for a response."""
        body = {"model": "tiny", "input": "hi", **members}
        return await (client or self.mine).post("/v1/responses", json=body)

    async def raw(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.stack.push_async_callback(client.close)
        return client

    async def settled(self) -> None:
        """Wait until the proxy has written about every request."""
        await until(lambda: not self.app.tally.in_flight)


class KeepBuilder:
    """Opens them; a test may want other limits."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(
        self,
        limits: Limits | None = None,
        *,
        bindings: Any = None,
        recorder: Recorder | None = None,
    ) -> Keep:
        enter = self._stack.enter_async_context
        first, second = await enter(keeping_engine("a")), await enter(keeping_engine("b"))
        control = MemoryControl(snapshot_of(first.base_url, second.base_url))
        journal, bindings = MemoryJournal(), bindings or MemoryBindings()
        limits = limits or Limits(drain_ms=2_000)
        app = create_app(control, journal, limits=limits, bindings=bindings, recorder=recorder)
        port = await enter(serving(app))
        mine, theirs = [
            await enter(
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{port}",
                    headers={"authorization": f"Bearer {key}"},
                    timeout=20,
                    trust_env=False,
                )
            )
            for key in (KEY, OTHER_KEY)
        ]
        return Keep(first, second, control, journal, bindings, app, port, mine, theirs, self._stack)


@pytest.fixture
async def open_keep() -> AsyncIterator[KeepBuilder]:
    async with AsyncExitStack() as stack:
        yield KeepBuilder(stack)


@pytest.fixture
async def keep(open_keep: KeepBuilder) -> Keep:
    return await open_keep()
