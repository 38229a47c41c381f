"""Yards with limits are those of the tests of limits, fleets those of attempts. A traced fleet
exports to a collector of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal

import pytest

from api.proxy.app import system_clock
from api.proxy.telemetry.export import Export, export_to
from api.proxy.telemetry.otlp import Collector, Pace, exporting
from tests.api.proxy.attempts.conftest import Fleet, FleetBuilder, fleet, open_fleet
from tests.api.proxy.conftest import Yard, until
from tests.api.proxy.limits.conftest import limited
from tests.api.proxy.stored.conftest import Keep, KeepBuilder, keep, open_keep
from tests.api.proxy.telemetry.collector import FakeCollector, fake_collector

__all__ = ["fleet", "keep", "limited", "open_fleet", "open_keep"]

FAST = Pace(spans=20, metrics=40, answer=300, first_pause=20, longest_pause=50, stop=1_000)


@dataclass(slots=True)
class Traced:
    """A fleet whose spans go to a collector."""

    fleet: Fleet
    collector: FakeCollector
    export: Export

    @property
    def yard(self) -> Yard:
        return self.fleet.yard

    async def exported(self, requests: int = 1) -> None:
        """Wait until the collector has the spans of so many requests."""
        await until(lambda: len(self.collector.requests) >= requests)

    async def nothing(self) -> None:
        """Be sure that nothing is exported: give it the time in which something would be."""
        await self.yard.settled()
        await asyncio.sleep(5 * FAST.spans / 1000)
        assert self.collector.spans == []
        assert self.export.exporter.queued == 0


@dataclass(slots=True)
class TracedKeep:
    """A proxy in front of backends that keep objects, whose spans go to a collector."""

    keep: Keep
    collector: FakeCollector

    async def exported(self, requests: int = 1) -> None:
        """Wait until the collector has the spans of so many requests."""
        await until(lambda: len(self.collector.requests) >= requests)


async def _export(stack: AsyncExitStack, share: str, pace: Pace) -> tuple[FakeCollector, Export]:
    collector = await stack.enter_async_context(fake_collector())
    where = Collector(
        endpoint=collector.endpoint, headers={"x-tenant": "of the collector"}, instance="p1"
    )
    return collector, export_to(where, share=Decimal(share), clock=system_clock, pace=pace)


class TracedBuilder:
    """Opens traced fleets."""

    def __init__(self, open_fleet: FleetBuilder, stack: AsyncExitStack) -> None:
        self._open_fleet = open_fleet
        self._stack = stack

    async def __call__(
        self, *, share: str = "1", pace: Pace = FAST, engine: str = "vllm"
    ) -> Traced:
        collector, export = await _export(self._stack, share, pace)
        fleet = await self._open_fleet(engine=engine, recorder=export.recorder)
        export.join(fleet.yard.app.tally)
        await self._stack.enter_async_context(exporting(export.exporter))
        return Traced(fleet, collector, export)


@pytest.fixture
async def open_traced(open_fleet: FleetBuilder) -> AsyncIterator[TracedBuilder]:
    async with AsyncExitStack() as stack:
        yield TracedBuilder(open_fleet, stack)


@pytest.fixture
async def traced(open_traced: TracedBuilder) -> Traced:
    return await open_traced()


@pytest.fixture
async def traced_keep(open_keep: KeepBuilder) -> AsyncIterator[TracedKeep]:
    async with AsyncExitStack() as stack:
        collector, export = await _export(stack, "1", FAST)
        keep = await open_keep(recorder=export.recorder)
        export.join(keep.app.tally)
        await stack.enter_async_context(exporting(export.exporter))
        yield TracedKeep(keep, collector)
