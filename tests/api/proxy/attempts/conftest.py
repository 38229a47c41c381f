"""A proxy in front of several engines that serve the same model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from api.proxy.limits import Limits
from api.proxy.telemetry.recorder import Recorder
from billing.admission.backend import Backend, ServedModel
from tests.api.proxy.conftest import CHAT, TENANT, MemoryJournal, Yard, YardBuilder
from tests.fake_engine.server import FakeEngine, fake_engine
from tests.fake_engine.shapes import Behaviour

DEAD = "http://127.0.0.1:9"


@dataclass(slots=True)
class Fleet:
    """Model `pool` on engines 0, 1, …, whose backends are named e0, e1, …."""

    yard: Yard
    engines: list[FakeEngine]

    @property
    def journal(self) -> MemoryJournal:
        return self.yard.journal

    @property
    def served(self) -> list[int]:
        """How many requests each engine got."""
        return [len(engine.served) for engine in self.engines]

    def behave(self, *behaviours: Behaviour) -> None:
        for engine, behaviour in zip(self.engines, behaviours, strict=True):
            engine.behaviour = behaviour

    def serve(self, *models: ServedModel) -> None:
        """Serve other models beside those of the yard, all with a price."""
        snapshot = self.yard.control.snapshot
        terms = snapshot.terms[TENANT]
        priced = {**terms.priced, **{model.name: CHAT for model in models}}
        self.yard.control.snapshot = replace(
            snapshot,
            models={**snapshot.models, **{model.name: model for model in models}},
            terms={TENANT: replace(terms, priced=priced)},
        )

    def change(self, model: str, **members: Any) -> None:
        """Change a model's configuration."""
        self.serve(replace(self.yard.control.snapshot.models[model], **members))

    def reconfigure(self, backend: str, **members: Any) -> None:
        """Change one backend of `pool`."""
        backends = self.yard.control.snapshot.models["pool"].backends
        self.change(
            "pool",
            backends=tuple(
                replace(one, **members) if one.name == backend else one for one in backends
            ),
        )

    async def chat(self, **members: object) -> httpx.Response:
        return await self.yard.chat(**{"model": "pool", **members})


class FleetBuilder:
    """Opens fleets."""

    def __init__(self, open_yard: YardBuilder, stack: AsyncExitStack) -> None:
        self._open_yard = open_yard
        self._stack = stack

    async def __call__(
        self,
        size: int = 2,
        *,
        engine: str = "vllm",
        limits: Limits | None = None,
        recorder: Recorder | None = None,
    ) -> Fleet:
        yard = await self._open_yard(limits=limits, recorder=recorder)
        engines = [await self._stack.enter_async_context(fake_engine()) for _ in range(size)]
        backends = tuple(
            Backend(name=f"e{number}", base_url=fake.base_url, engine=engine)
            for number, fake in enumerate(engines)
        )
        fleet = Fleet(yard, engines)
        fleet.serve(ServedModel(id=70, name="pool", backends=backends, classes=CHAT))
        return fleet


@pytest.fixture
async def open_fleet(open_yard: YardBuilder) -> AsyncIterator[FleetBuilder]:
    async with AsyncExitStack() as stack:
        yield FleetBuilder(open_yard, stack)


@pytest.fixture
async def fleet(open_fleet: FleetBuilder) -> Fleet:
    return await open_fleet()
