"""A proxy in front of a scripted engine, with a model of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.admission.backend import Backend, ModelKind, ServedModel
from billing.admission.snapshot import KeyGrant, Snapshot
from billing.admission.terms import TenantTerms
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from tests.api.proxy.conftest import (
    BLIND_KEY,
    KEY,
    MemoryControl,
    MemoryJournal,
    RawClient,
    digest,
    until,
)
from tests.api.proxy.endpoints.asks import Ask
from tests.fake_engine.scripted import ScriptedEngine, scripted_engine

TENANT = 7
TEXT = frozenset(TokenClass)
READ = frozenset({TokenClass.INPUT})
YIELDS: dict[str, tuple[ModelKind, frozenset[TokenClass], frozenset[UnitMeter]]] = {
    "text": (ModelKind.TEXT, TEXT, frozenset()),
    "embed": (ModelKind.EMBEDDING, READ, frozenset()),
    "rank": (ModelKind.RERANK, READ, frozenset({UnitMeter.SEARCHES})),
    "hear": (ModelKind.AUDIO, TEXT, frozenset({UnitMeter.AUDIO_MS})),
    "speak": (ModelKind.SPEECH, frozenset(), frozenset({UnitMeter.CHARACTERS})),
    "paint": (ModelKind.IMAGE, TEXT, frozenset({UnitMeter.IMAGES})),
}
UNPRICED = "no-price-"


def snapshot_of(base_url: str) -> Snapshot:
    """Every kind of model, once with prices and once without."""
    backend = Backend(name="b1", base_url=base_url, engine="vllm", api_key="backend-secret")
    models = {
        prefix + name: ServedModel(
            id=number,
            name=prefix + name,
            backends=(backend,),
            classes=classes,
            kind=kind,
            units=units,
            created_at_us=5_000_000,
        )
        for prefix in ("", UNPRICED)
        for number, (name, (kind, classes, units)) in enumerate(YIELDS.items(), start=1)
    }
    own = replace(backend, name="b2", model="up/own name")
    models["renamed-hear"] = replace(models["hear"], id=20, name="renamed-hear", backends=(own,))
    names = [name for name in models if not name.startswith(UNPRICED)]
    grant = KeyGrant(key_id=9, tenant_id=TENANT, project_id=8, may_infer=True)
    return Snapshot(
        version=1,
        keys={digest(KEY): grant, digest(BLIND_KEY): replace(grant, may_infer=False)},
        terms={
            TENANT: TenantTerms(
                tenant_id=TENANT,
                price_version_id=31,
                priced={name: models[name].classes for name in names},
                priced_units={name: models[name].units for name in names},
            )
        },
        models=models,
    )


@dataclass(slots=True)
class Desk:
    """Everything of one test."""

    engine: ScriptedEngine
    control: MemoryControl
    journal: MemoryJournal
    app: Proxy
    port: int
    http: httpx.AsyncClient
    stack: AsyncExitStack

    async def ask(self, ask: Ask, body: bytes | None = None, **headers: str) -> httpx.Response:
        """Send a request; the engine plays the answer that belongs to it."""
        self.engine.script = ask.script
        return await self.http.post(
            ask.route.value,
            content=ask.body if body is None else body,
            headers={"content-type": ask.content_type.decode(), **headers},
        )

    async def raw(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.stack.push_async_callback(client.close)
        return client

    async def settled(self) -> None:
        """Wait until the proxy has written about every request."""
        await until(lambda: not self.app.tally.in_flight)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(scripted_engine())
        control, journal = MemoryControl(snapshot_of(engine.base_url)), MemoryJournal()
        app = create_app(control, journal, limits=Limits(drain_ms=2_000))
        port = await stack.enter_async_context(serving(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=20,
                trust_env=False,
            )
        )
        yield Desk(engine, control, journal, app, port, client, stack)
