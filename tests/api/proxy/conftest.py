"""A real proxy on a real socket, in front of a fake engine, with a journal that can be watched."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.limits import Limits
from api.proxy.server import serving
from api.proxy.telemetry.recorder import Recorder
from billing.admission.backend import Backend, ModelKind, ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.errors import JournalError
from billing.journal.records import Checkpoint, Intent, Record, Usage, Void
from billing.metering.token_class import TokenClass
from tests.fake_engine.server import FakeEngine, fake_engine

KEY = "sk-sy-testtest-0123456789abcdef0123456789abcdef"
BLIND_KEY = "sk-sy-blindkey-0123456789abcdef0123456789abcdef"
EXPIRED_KEY = "sk-sy-oldoldol-0123456789abcdef0123456789abcdef"
CHAT = frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})
TENANT, PROJECT, PRICE_VERSION = 7, 8, 31


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class MemoryControl:
    """Control whose snapshot a test sets."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.asked: list[bytes] = []
        self.new_keys: dict[bytes, KeyGrant] = {}

    async def look_up(self, key_digest: bytes) -> None:
        self.asked.append(key_digest)
        await asyncio.sleep(0.01)
        if key_digest in self.new_keys:
            keys = {**self.snapshot.keys, key_digest: self.new_keys[key_digest]}
            self.snapshot = replace(self.snapshot, keys=keys, version=self.snapshot.version + 1)


class MemoryJournal:
    """A journal in memory: what is in `records` is durable. `gate` closed = the disk is slow."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.waiting: list[Record] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = False
        self.closed = False
        self.healthy = True

    async def append(self, record: Record) -> None:
        self.waiting.append(record)
        await self.gate.wait()
        self.waiting.remove(record)
        if self.refuses:
            self.healthy = False
            raise JournalError("no space left")
        self.healthy = True
        self.records.append(record)

    def append_soon(self, record: Record) -> None:
        if self.refuses:
            raise JournalError("no space left")
        self.records.append(record)

    def append_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            self.append_soon(checkpoint)

    async def close(self) -> None:
        self.closed = True

    @property
    def usages(self) -> list[Usage]:
        return [record for record in self.records if isinstance(record, Usage)]

    @property
    def usage(self) -> Usage:
        (only,) = self.usages
        return only

    @property
    def voids(self) -> list[Void]:
        return [record for record in self.records if isinstance(record, Void)]

    @property
    def intents(self) -> list[Intent]:
        return [record for record in self.records if isinstance(record, Intent)]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        return [record for record in self.records if isinstance(record, Checkpoint)]


def engine_figures(usage: Usage) -> dict[str, int]:
    """What the engine told of its usage, without what the proxy measured."""
    own = "steelyard."
    return {path: count for path, count in usage.raw.items() if not path.startswith(own)}


def snapshot_for(base_url: str, engine: str = "vllm") -> Snapshot:
    backend = Backend(name="b1", base_url=base_url, engine=engine, api_key="backend-secret")
    renamed = replace(backend, name="b2", model="up/real-name")
    dead = replace(backend, name="b3", base_url="http://127.0.0.1:9")
    models = {
        "tiny": ServedModel(id=1, name="tiny", backends=(backend,), classes=CHAT, created_at_us=5),
        "renamed": ServedModel(id=2, name="renamed", backends=(renamed,), classes=CHAT),
        "dead": ServedModel(id=3, name="dead", backends=(dead,), classes=CHAT),
        "unpriced": ServedModel(id=4, name="unpriced", backends=(backend,), classes=CHAT),
        "embed": ServedModel(
            id=5,
            name="embed",
            backends=(backend,),
            classes=frozenset({TokenClass.INPUT}),
            kind=ModelKind.EMBEDDING,
        ),
        "uncached": ServedModel(
            id=6,
            name="uncached",
            backends=(backend,),
            classes=frozenset({TokenClass.INPUT, TokenClass.OUTPUT}),
        ),
    }
    priced = {name: CHAT for name in models if name != "unpriced"}
    priced["unpriced"] = frozenset({TokenClass.INPUT})
    grant = KeyGrant(key_id=9, tenant_id=TENANT, project_id=PROJECT, may_infer=True)
    return Snapshot(
        version=1,
        keys={
            digest(KEY): grant,
            digest(BLIND_KEY): replace(grant, may_infer=False),
            digest(EXPIRED_KEY): replace(grant, expires_at_us=1),
        },
        terms={
            TENANT: TenantTerms(tenant_id=TENANT, price_version_id=PRICE_VERSION, priced=priced)
        },
        models=models,
    )


class RawClient:
    """A client on a bare socket, so that it can leave, stall and misbehave as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def post(self, body: bytes, path: str = "/v1/chat/completions") -> None:
        self.writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
            % (path.encode(), KEY.encode(), len(body))
        )
        self.writer.write(body)
        await self.writer.drain()

    async def send(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """Everything to the end of the connection."""
        async with asyncio.timeout(10):
            return await self.reader.read()

    def leave(self, *, polite: bool = False) -> None:
        if polite:
            self.writer.close()
        else:
            self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait for an effect; the time is a guard against a hang, on a machine that is busy."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # effects of other processes have no event
            await asyncio.sleep(0.005)


@dataclass(slots=True)
class Yard:
    """Everything of one test.

    Attributes:
        http: a client with the good key.
    """

    engine: FakeEngine
    control: MemoryControl
    journal: MemoryJournal
    app: Proxy
    port: int
    http: httpx.AsyncClient
    stack: AsyncExitStack

    async def raw(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.stack.push_async_callback(client.close)
        return client

    async def stream(self, **members: object) -> RawClient:
        """A raw client that has asked for a stream."""
        client = await self.raw()
        body = {"model": "tiny", "messages": [], "stream": True, **members}
        await client.post(json.dumps(body).encode())
        return client

    async def settled(self) -> None:
        """Wait until the proxy has written about every request."""
        await until(lambda: not self.app.tally.in_flight)

    async def chat(self, **members: object) -> httpx.Response:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **members}
        return await self.http.post("/v1/chat/completions", json=body)


class YardBuilder:
    """Opens yards; a test may want other limits or another engine."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(
        self,
        *,
        engine: str = "vllm",
        limits: Limits | None = None,
        recorder: Recorder | None = None,
    ) -> Yard:
        fake = await self._stack.enter_async_context(fake_engine())
        control = MemoryControl(snapshot_for(fake.base_url, engine))
        journal = MemoryJournal()
        limits = limits or Limits(drain_ms=2_000)
        app = create_app(control, journal, limits=limits, recorder=recorder)
        port = await self._stack.enter_async_context(serving(app))
        client = await self._stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=20,
                trust_env=False,
            )
        )
        return Yard(fake, control, journal, app, port, client, self._stack)


@pytest.fixture
async def open_yard() -> AsyncIterator[YardBuilder]:
    async with AsyncExitStack() as stack:
        yield YardBuilder(stack)


@pytest.fixture
async def yard(open_yard) -> Yard:
    return await open_yard()
