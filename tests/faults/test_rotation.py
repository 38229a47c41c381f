"""Keys that end: on every process, at the instant, and whatever the database does meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from api.proxy.app import create_app
from api.proxy.control.snapshots import Control, utc_now
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.metering.event_id import microseconds
from billing.operations.tenancy.keys import IssuedKey, issue_key, revoke_key
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from tests.api.proxy.conftest import KEY, MemoryControl, MemoryJournal, snapshot_for
from tests.faults.fleet import ProxyFleet
from tests.world import make_world

PROCESSES = 4
INSTANT = timedelta(microseconds=1)


def issued(database: Database, *, expires_at: datetime | None = None) -> IssuedKey:
    with database.transaction(Role.OPERATOR) as connection:
        return issue_key(
            connection,
            role=KeyRole.INFERENCE,
            tenant="acme",
            name="rotated",
            expires_at=expires_at,
            now=utc_now(),
        )


async def ask(url: str, key: str) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"})
        return answer.status_code


async def answers(fleet: ProxyFleet, key: str) -> set[int]:
    """What the processes say of a key."""
    asked = (ask(fleet.url(number), key) for number in range(PROCESSES))
    return set(await asyncio.gather(*asked))


async def test_a_key_ends_on_every_process_within_a_second(open_plant):
    async with open_plant(pace_ms=0) as plant:
        database = plant.system.database
        fleet = ProxyFleet(plant.system, PROCESSES)
        await asyncio.to_thread(fleet.start)
        graced_until = utc_now() + timedelta(seconds=6)
        old, new = issued(database, expires_at=graced_until), issued(database)
        assert await answers(fleet, old.text) == {200}
        assert await answers(fleet, new.text) == {200}
        await asyncio.sleep((graced_until - utc_now()).total_seconds())
        assert await answers(fleet, old.text) == {401}
        assert await answers(fleet, new.text) == {200}
        with database.transaction(Role.OPERATOR) as connection:
            revoke_key(connection, new.id, tenant_id=None, now=utc_now())
        await asyncio.sleep(1)  # what is promised
        assert await answers(fleet, new.text) == {401}
        fleet.stop()


async def test_the_grace_of_a_rotated_key_ends_to_the_microsecond(database, now):
    make_world(database, now).tenant("acme")
    end = utc_now().replace(microsecond=0) + timedelta(hours=1, microseconds=123_457)
    key = issued(database, expires_at=end)
    instant = end - INSTANT
    async with AsyncExitStack() as stack:
        control = await Control.start(database, database.conninfo(), [], now=utc_now)
        stack.push_async_callback(control.stop)
        limits = Limits(known_keys_ms=0)
        app = create_app(
            control, MemoryJournal(), clock=lambda: microseconds(instant), limits=limits
        )
        port = await stack.enter_async_context(serving(app))
        assert await ask(f"http://127.0.0.1:{port}", key.text) == 200
        instant = end
        assert await ask(f"http://127.0.0.1:{port}", key.text) == 401


@pytest.mark.parametrize(
    ("known_keys_ms", "age_ms", "status"),
    [(5_000, 5_000, 200), (5_000, 5_001, 503), (0, 10**12, 200)],
)
async def test_known_keys_live_for_a_set_time_without_news(known_keys_ms, age_ms, status):
    taken = microseconds(datetime(2026, 11, 21, tzinfo=UTC))
    control = MemoryControl(replace(snapshot_for("http://127.0.0.1:9"), taken_at_us=taken))
    app = create_app(
        control,
        MemoryJournal(),
        clock=lambda: taken + age_ms * 1000,
        limits=Limits(known_keys_ms=known_keys_ms),
    )
    async with serving(app) as port:
        url = f"http://127.0.0.1:{port}"
        assert await ask(url, KEY) == status
        # Whether a key exists is not to be told from the answer.
        assert await ask(url, f"{KEY}x") == (503 if status == 503 else 401)
