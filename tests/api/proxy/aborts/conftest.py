"""A proxy in front of an engine that plays recorded streams and stops where it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from api.proxy.limits import Limits
from billing.metering.token_class import TokenClass
from tests.api.proxy.conftest import TENANT, RawClient, Yard, YardBuilder
from tests.engines.golden import Vector
from tests.fake_engine.played import PlayedEngine, played_engine

ALL = frozenset(TokenClass)


@dataclass(slots=True)
class Stage:
    """Model `m` on an engine that plays."""

    yard: Yard
    player: PlayedEngine

    def play(self, vector: Vector, *, upto: int | None = None, breaks: bool = False) -> None:
        """Play a stream up to some byte of it."""
        self.use(self.player.base_url, vector)
        self.player.wire = vector.wire if upto is None else vector.wire[:upto]
        self.player.breaks = breaks
        self.player.ends = upto is None

    def use(self, base_url: str, vector: Vector) -> None:
        """Have an engine of the vector's kind at an address serve the model."""
        snapshot = self.yard.control.snapshot
        backend = replace(
            snapshot.models["tiny"].backends[0], base_url=base_url, engine=vector.engine.engine
        )
        model = replace(snapshot.models["tiny"], name="m", backends=(backend,), classes=ALL)
        terms = replace(snapshot.terms[TENANT], priced={"m": ALL})
        self.yard.control.snapshot = replace(snapshot, models={"m": model}, terms={TENANT: terms})

    async def ask(self, vector: Vector) -> RawClient:
        """A client that has asked for the vector's stream."""
        client = await self.yard.raw()
        await client.post(vector.request.members.body, vector.route.value)
        return client


class Stages:
    """Opens stages."""

    def __init__(self, open_yard: YardBuilder, stack: AsyncExitStack) -> None:
        self._open_yard = open_yard
        self._stack = stack

    async def __call__(self) -> Stage:
        player = await self._stack.enter_async_context(played_engine())
        return Stage(await self._open_yard(limits=Limits(drain_ms=30)), player)


@pytest.fixture
async def open_stage(open_yard) -> AsyncIterator[Stages]:
    async with AsyncExitStack() as stack:
        yield Stages(open_yard, stack)


@pytest.fixture
async def stage(open_stage) -> Stage:
    return await open_stage()
