"""kill -9 of proxies that share a host, at moments that nobody chose (D2): 100 rounds when asked.

Four processes, one journal folder, one writer. In each round some of the four die under load at
instants of their own, and sometimes the writer does; the others serve on. In the end the ledger
holds every answer that ended, once and exact, and of the others at most what was delivered.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.conftest import Plant
from tests.faults.fleet import ProxyFleet
from tests.faults.stream_client import Told
from tests.faults.workloads import FULL, mixed, start_clients

ROUNDS = 100 if FULL else 2
PROCESSES = 4

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_600)] if FULL else []


async def one_round(plant: Plant, fleet: ProxyFleet, chance: random.Random) -> list[Told]:
    """Serve, and kill one to four of the processes in between."""
    await asyncio.to_thread(fleet.start)
    victims = chance.sample(range(PROCESSES), chance.randint(1, PROCESSES))
    async with asyncio.TaskGroup() as group:
        running = start_clients(group, fleet, mixed(chance), chance, over_ms=500)
        for victim in victims:
            await asyncio.sleep(chance.randint(50, 900) / 1000)
            fleet.kill_9([victim])
            # As its watcher would; the next round then has less to wait for.
            fleet.spawn()
        if chance.random() < 0.3:
            plant.system.kill_9("writer")
            plant.system.start_writer()
    return [task.result() for task in running]


async def test_a_hundred_rounds_on_four_processes(open_plant, record_property):
    answers: list[Told] = []
    async with open_plant(pace_ms=25) as plant:
        fleet = ProxyFleet(plant.system, PROCESSES)
        for seed in range(ROUNDS):
            answers += await one_round(plant, fleet, random.Random(seed))
        fleet.stop()
        await asyncio.to_thread(plant.system.wait_until_settled)
        verdicts = plant.judged(answers)
    record_property("leaked_by_crash", verdicts.leaked)
    record_property("verdicts", str(verdicts))
    # Else the instants were so badly chosen that nothing was shown.
    assert verdicts.completed
    assert verdicts.recovered
