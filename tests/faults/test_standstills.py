"""Processes that stand still for a while: proxies, the writer, and the server's own processes.

A stopped process is one whose host swaps, migrates or has no time for it. When it goes on, its
clocks have run and what came meanwhile waits to be read: nothing may be lost, billed twice or held
for ever, and every request ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.admission.limit import Limit, Unit
from billing.journal.reader import list_instances, segments
from billing.journal.records import Intent, Usage, Void, decode
from billing.journal.segment import HEADER_BYTES, frames
from billing.store.database import Database, Role, query
from tests.faults.conftest import OpenPlant, Plant
from tests.faults.fleet import ProxyFleet
from tests.faults.stream_client import Told
from tests.faults.workloads import FULL, mixed, start_clients
from tests.operations.lease_world import make_limit, require_leases_tie, standing
from tests.system import eventually

ROUNDS = 150 if FULL else 1
PROCESSES = 2
LONGEST_MS = 4_000 if FULL else 1_200
"""Of one standstill; with the longest, deadlines of the database and of backends pass."""

ENDS_SECONDS = 60
"""Of a request, whatever stood still; far beyond every deadline of it."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(7_200)] if FULL else []


def servers(database: Database) -> list[int]:
    """The database server's processes for this database."""
    with database.transaction(Role.OPERATOR) as connection:
        rows = query(
            connection,
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid()",
        )
    return [row.pid for row in rows]


async def stand_still(pids: Iterable[int], duration_ms: int) -> None:
    stopped = list(pids)
    try:
        for pid in stopped:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(duration_ms / 1000)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def one_round(plant: Plant, fleet: ProxyFleet, chance: random.Random) -> list[Told]:
    """Serve, and let something stand still at two instants of it."""
    children = plant.system.children
    async with asyncio.TaskGroup() as group:
        running = start_clients(group, fleet, mixed(chance), chance, over_ms=500)
        for _ in range(2):
            await asyncio.sleep(chance.randrange(400) / 1000)
            match chance.randrange(4):
                case 0:
                    pids = [children["writer"].pid]
                case 1:
                    pids = chance.sample(found := servers(plant.system.database), len(found) // 2)
                case _:
                    pids = [children[f"proxy-{chance.randrange(PROCESSES)}"].pid]
            duration_ms = chance.randint(200, LONGEST_MS)
            group.create_task(stand_still((pid for pid in pids if pid), duration_ms))
        for task in running:
            async with asyncio.timeout(ENDS_SECONDS):
                await task
    return [task.result() for task in running]


def open_operations(plant: Plant) -> set[bytes]:
    """Operations of all journals that were begun and have no outcome."""
    begun, ended = set[bytes](), set[bytes]()
    for folder in list_instances(plant.system.journal_dir):
        for segment in segments(folder):
            for frame in frames(memoryview(segment.path.read_bytes()), HEADER_BYTES):
                match decode(frame.payload):
                    case Intent(id=id):
                        begun.add(id)
                    case Usage(id=id) | Void(id=id):
                        ended.add(id)
                    case _:
                        pass
    return begun - ended


def held(database: Database, limits: Iterable[Limit]) -> list[Decimal]:
    return [standing(database, limit, datetime.now(UTC))[1] for limit in limits]


async def test_whatever_stands_still_every_request_ends_and_is_billed_once(
    open_plant: OpenPlant, record_property: Callable[[str, object], None]
) -> None:
    answers: list[Told] = []
    async with open_plant(pace_ms=10) as plant:
        database, tenant, now = plant.system.database, plant.system.tenant, datetime.now(UTC)
        calls = make_limit(database, tenant, "calls", "1000000", now=now, unit=Unit.REQUESTS)
        slots = make_limit(database, tenant, "slots", "1000", now=now, unit=Unit.SLOTS)
        fleet = ProxyFleet(plant.system, PROCESSES)
        await asyncio.to_thread(fleet.start)
        for seed in range(ROUNDS):
            answers += await one_round(plant, fleet, random.Random(seed))
        # While the processes live: what a request still held would be leased for ever.
        if FULL:
            await asyncio.to_thread(
                eventually,
                lambda: held(database, [calls, slots]),
                lambda found: not any(found),
            )
        await asyncio.to_thread(fleet.stop)
        await asyncio.to_thread(plant.system.wait_until_settled)
        verdicts = plant.judged(answers)
        events = len(plant.system.events(100_000))
        assert open_operations(plant) == set()
        assert standing(database, calls, datetime.now(UTC)) == (events, 0, 1_000_000 - events)
        assert standing(database, slots, datetime.now(UTC)) == (0, 0, 1_000)
        require_leases_tie(database)
    statuses = Counter(told.status for told in answers if not told.left)
    record_property("statuses", str(statuses))
    record_property("verdicts", str(verdicts))
    assert not verdicts.recovered
    assert statuses.keys() <= {200, 503, 504}
    assert verdicts.completed
