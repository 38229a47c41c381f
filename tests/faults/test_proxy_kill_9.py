"""kill -9 of the proxy under load: the completed is billed exactly, the cut within bounds (D2).

The seed of a failing round is in the failure's notes; rounds are few by default and twenty with
STEELYARD_ROUNDS=full.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.faults.conftest import Plant
from tests.faults.judgement import Verdicts
from tests.faults.stream_client import Ask, Told
from tests.faults.workloads import FULL, mixed, start_clients, streams

ROUNDS = 20 if FULL else 2

pytestmark = [pytest.mark.long] if FULL else []


async def one_round(plant: Plant, asks: list[Ask], chance: random.Random) -> list[Told]:
    """All at once, and at some instant in between the proxy is gone; sometimes the writer too."""
    system = plant.system
    system.start_proxy()
    async with asyncio.TaskGroup() as group:
        running = start_clients(group, plant, asks, chance, over_ms=500)
        await asyncio.sleep(chance.randint(100, 2500) / 1000)
        if chance.random() < 0.3:
            system.kill_9("writer")
        system.kill_9("proxy")
    if "writer" not in system.children:
        system.start_writer()
    await asyncio.to_thread(system.wait_until_settled)
    return [task.result() for task in running]


@pytest.mark.parametrize("workload", [streams, mixed])
async def test_what_a_killed_proxy_completed_is_billed_exactly_and_what_it_cut_within_bounds(
    workload, open_plant
):
    answers: list[Told] = []
    verdicts = Verdicts()
    async with open_plant(pace_ms=25) as plant:
        for seed in range(ROUNDS):
            chance = random.Random(seed)
            try:
                answers += await one_round(plant, workload(chance), chance)
                verdicts = plant.judged(answers)
            except AssertionError as wrong:
                wrong.add_note(f"round {seed}")
                raise
    # Else the instants were so badly chosen that nothing was shown.
    assert verdicts.completed
    assert verdicts.recovered
    assert workload is streams or verdicts.ended_early


async def stalled(plant: Plant, lengths: list[int]) -> list[Told]:
    """Clients that read nothing; when nothing moves any more the proxy is killed, and they read."""
    system, engine = plant.system, plant.engine
    system.start_proxy()
    asks = [Ask(model="engine-vllm", prompt=5, tokens=length) for length in lengths]
    clients = [plant.client(ask, receive_buffer=16 << 10) for ask in asks]
    seen = len(engine.served)
    for client in clients:
        client.pause()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in clients]
        sent: list[int] = []
        while len(sent) < seen + len(clients) or sent != engine.sent():
            sent = engine.sent()
            await asyncio.sleep(0.4)
        system.kill_9("proxy")
        for client in clients:
            client.resume()
    await asyncio.to_thread(system.wait_until_settled)
    return [task.result() for task in running]


async def test_clients_that_do_not_read_are_billed_at_most_what_reaches_them_in_the_end(
    open_plant,
):
    async with open_plant(pace_ms=0, padding=4000) as plant:
        (endless,) = await stalled(plant, [20_000])
        assert plant.judged([endless]).recovered == 1
        # Answers that the engine had ended, while their last bytes still waited in the proxy; one
        # that fits into the kernel for certain, and one that does not.
        fits = endless.delivered
        lengths = [fits // 2, *range(fits - 20, fits + 44, 4), fits * 2]
        answers = await stalled(plant, lengths)
        verdicts = plant.judged([endless, *answers])
        assert verdicts.recovered > 1
        assert verdicts.completed
