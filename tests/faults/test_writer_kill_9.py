"""kill -9 of the ledger writer under load: nothing is lost and nothing counted twice (L3, L5)."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.conftest import Plant
from tests.faults.workloads import FULL, mixed, start_clients, streams

KILLS = 40 if FULL else 5

pytestmark = [pytest.mark.long] if FULL else []


async def kill_writers(plant: Plant, chance: random.Random, times: int) -> None:
    """Kill the writer again and again: while it starts, while it waits, while it ships."""
    for _ in range(times):
        await asyncio.sleep(chance.choice([10, 300, 900, 1500, 2200]) / 1000)
        plant.system.kill_9("writer")
        plant.system.start_writer()


async def test_L5_a_killed_writer_loses_nothing_and_counts_nothing_twice(open_plant):
    chance = random.Random(7)
    async with open_plant(pace_ms=15) as plant:
        plant.system.start_proxy()
        asks = [ask for _ in range(KILLS) for ask in mixed(chance)]
        async with asyncio.TaskGroup() as group:
            running = start_clients(group, plant, asks, chance, over_ms=KILLS * 1000)
            group.create_task(kill_writers(plant, chance, KILLS))
        plant.system.children.pop("proxy").stop()
        await asyncio.to_thread(plant.system.wait_until_settled)
        answers = [task.result() for task in running]
        verdicts = plant.judged(answers)
        assert not verdicts.recovered
        stayed = sum(not told.left for told in answers)
        assert verdicts.completed >= stayed > KILLS * 30


async def test_a_proxy_that_is_told_to_stop_bills_what_it_cuts_by_itself(open_plant):
    """Its streams end in order or are cut at the end of the grace; the writer recovers none."""
    chance = random.Random(11)
    async with open_plant(pace_ms=15) as plant:
        plant.system.start_proxy()
        async with asyncio.TaskGroup() as group:
            running = start_clients(group, plant, streams(chance), chance, over_ms=300)
            while len(plant.engine.served) < len(running):  # noqa: ASYNC110  # the engine's own list
                await asyncio.sleep(0.01)
            group.create_task(asyncio.to_thread(plant.system.children.pop("proxy").stop))
        await asyncio.to_thread(plant.system.wait_until_settled)
        answers = [task.result() for task in running]
        assert plant.judged(answers).completed == len(answers)
