"""kill -9, up to the reconciler: what engines counted and nobody is billed for shows as `crash`."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

from billing.engines.counters import EngineCounters
from billing.metering.leakage import CRASH, Reconciled
from billing.metering.usage_event import Cause
from billing.operations.leakage.reconcile_hour import HOUR, hour_of, reconcile_hour
from billing.operations.leakage.take_sample import take_sample
from billing.period import Period
from billing.store.database import Role
from tests.faults.conftest import Plant
from tests.faults.judgement import Books, read_books
from tests.faults.stream_client import Told
from tests.faults.workloads import FULL, start_clients, streams

ROUNDS = 10 if FULL else 2
MODELS_OF = {"vllm": "engine-vllm", "plain": "engine-plain", "transformers": "engine-transformers"}


def look(plant: Plant, *, at: datetime, began: bool = False) -> None:
    """What the worker does: read each engine's counters and record them."""
    nothing = EngineCounters(prompt=0, generation=0, counts_cached=True)
    with plant.system.database.transaction(Role.INGEST) as connection:
        for backend, model in MODELS_OF.items():
            counters = nothing if began else plant.engine.counters(model)
            assert take_sample(connection, backend=backend, counters=counters, now=at)


def reconciled(plant: Plant, *, began: datetime) -> dict[str, Reconciled]:
    # Two hours, since a test does not choose when the clock strikes.
    start = hour_of(began).start
    period = Period(start=start, end=start + 2 * HOUR)
    with plant.system.database.transaction(Role.OPERATOR) as connection:
        rows = reconcile_hour(connection, hour=period, now=datetime.now(UTC))
    return {row.backend: row for row in rows}


def billed(books: Books, request_id: str) -> int:
    event = books.events.get(request_id)
    if event is None:
        return 0
    return sum(int(event.quantities.get(f"tokens.{name}", 0)) for name in ("input", "output"))


def crashed(books: Books, request_id: str) -> bool:
    event = books.events.get(request_id)
    return event.cause == Cause.RECOVERED if event else books.scrap.get(request_id) == CRASH


async def one_round(plant: Plant, chance: random.Random) -> list[Told]:
    proxy = await asyncio.to_thread(plant.system.start_proxy)
    assert proxy.pid is not None
    async with asyncio.TaskGroup() as group:
        running = start_clients(group, plant, streams(chance), chance, over_ms=400)
        await asyncio.sleep(chance.randint(500, 900) / 1000)
        plant.system.kill_9("proxy")
    return [task.result() for task in running]


async def test_what_a_crash_cut_is_reported_as_leakage_by_that_reason(open_plant):
    answers: list[Told] = []
    async with open_plant(pace_ms=15) as plant:
        began = datetime.now(UTC)
        look(plant, at=began, began=True)
        for seed in range(ROUNDS):
            answers += await one_round(plant, random.Random(seed))
        await asyncio.to_thread(plant.system.wait_until_settled)
        verdicts = plant.judged(answers)
        books = read_books(plant.system)
        look(plant, at=datetime.now(UTC))
        found = reconciled(plant, began=began)
    assert verdicts.recovered
    assert verdicts.completed
    for backend, model in MODELS_OF.items():
        served = {key: each for key, each in plant.engine.served.items() if each.model == model}
        missing = {
            key: each.prompt + each.sent - billed(books, key) for key, each in served.items()
        }
        assert all(tokens >= 0 for tokens in missing.values())
        # What ended is exact, so all that is missing is of requests that the crash cut.
        assert found[backend].leaked == sum(missing.values()) > 0
        assert found[backend].reasons == {CRASH: sum(crashed(books, key) for key in served)}
    assert sum(row.leaked for row in found.values()) == verdicts.leaked
