"""L6 over real processes: four proxies, one limit, many clients at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import httpx
import pytest

from billing.admission.limit import Unit, Window
from tests.faults.conftest import plant
from tests.faults.fleet import ProxyFleet
from tests.faults.workloads import FULL
from tests.operations.lease_world import make_limit, standing
from tests.system import eventually

PROCESSES = 4
CLIENTS = 500 if FULL else 160

pytestmark = [pytest.mark.long] if FULL else []


async def test_L6_four_processes_admit_ten_of_many(database, postgres, database_name, tmp_path):
    owner_url = postgres.owner_url(database_name)
    async with plant(database, owner_url, tmp_path, pace_ms=50) as yard:
        limit = make_limit(
            database, yard.system.tenant, "calls", "10", now=datetime.now(UTC),
            unit=Unit.REQUESTS, span=Window.MONTH,
        )  # fmt: skip
        fleet = ProxyFleet(yard.system, PROCESSES)
        await asyncio.to_thread(fleet.start)
        body = {
            "model": "engine-vllm",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 20,
        }
        headers = {"authorization": f"Bearer {yard.system.key}"}
        statuses: Counter[int] = Counter()
        limits = httpx.Limits(max_connections=CLIENTS)

        async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:

            async def ask(number: int) -> None:
                url = f"{fleet.url(number % PROCESSES)}/v1/chat/completions"
                statuses[(await client.post(url, json=body, headers=headers)).status_code] += 1

            await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
        assert statuses == {200: 10, 429: CLIENTS - 10}
        await asyncio.to_thread(fleet.stop)
        # Drawn with the events, by the writer; what the processes had leased beside it is back.
        await asyncio.to_thread(yard.system.wait_until_settled)
        assert eventually(
            lambda: standing(database, limit, datetime.now(UTC)), lambda found: found[0] == 10
        ) == (10, 0, 0)
