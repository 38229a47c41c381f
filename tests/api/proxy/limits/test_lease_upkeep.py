"""What keeps leases in order beside requests goes on, whatever fails once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.conninfo import make_conninfo
from sqlalchemy import event

from api.proxy.control.leases import LeaseKeeper
from api.proxy.limit_errors import HoldsUnavailable
from billing.admission.lease_book import Wanted
from billing.admission.limit import Limit
from billing.store.database import Role
from billing.store.embedded.address import ServerAddress
from billing.tenancy.tenant import Tenant
from tests.api.proxy.conftest import until
from tests.api.proxy.limits.test_lease_keeper import (
    Keepers,
    acme,
    keepers,
    requests_limit,
    world,
)
from tests.faults.silent_relay import silent_relay
from tests.operations.lease_world import require_leases_tie, standing
from tests.world import World

__all__ = ["acme", "keepers", "world"]


@pytest.fixture(autouse=True)
def quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.proxy.control.leases.BEAT_SECONDS", 0.05)
    monkeypatch.setattr("api.proxy.control.lease_calls.PAUSE_US", 50_000)


def leased(world: World, limit: Limit) -> bool:
    return bool(standing(world.database, limit, world.now)[1])


async def leave_idle(keepers: Keepers, keeper: LeaseKeeper, limit: Limit) -> None:
    """Lease of a limit, and use nothing of it."""
    keeper.release(await keepers.admit(keeper, [Wanted(limit=limit, amount=1)]), {})


@asynccontextmanager
async def fails_once(engine: sa.Engine, word: str, error: Exception) -> AsyncIterator[list[str]]:
    """The first statement with a word in it fails; yields those that did."""
    failed: list[str] = []

    def fail(*arguments: object) -> None:
        if word in str(arguments[2]) and not failed:
            failed.append(word)
            raise error

    event.listen(engine, "before_cursor_execute", fail)
    try:
        yield failed
    finally:
        event.remove(engine, "before_cursor_execute", fail)


async def test_what_could_not_be_given_back_is_given_back_later(
    world: World, acme: Tenant, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is free here any more, so that it looks like nothing is owed."""
    limit, keeper = requests_limit(world, acme, 100), keepers("p-1")
    await leave_idle(keepers, keeper, limit)
    assert leased(world, limit)
    gone = psycopg.OperationalError("the connection broke")
    async with fails_once(world.database.engine, "return_leases", gone) as failed:
        monkeypatch.setattr("api.proxy.control.leases.IDLE_US", -1_000_000)
        await until(lambda: failed)
        await until(lambda: not leased(world, limit))
    require_leases_tie(world.database)


async def test_what_could_not_be_given_back_is_not_given_twice(
    world: World, acme: Tenant, keepers: Keepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was leased anew meanwhile stays leased."""
    limit, keeper = requests_limit(world, acme, 100), keepers("p-1")
    await leave_idle(keepers, keeper, limit)
    gone = psycopg.OperationalError("the connection broke")
    async with fails_once(world.database.engine, "return_leases", gone) as failed:
        with monkeypatch.context() as idle:
            idle.setattr("api.proxy.control.leases.IDLE_US", -1_000_000)
            await until(lambda: failed)
    held = None
    while held is None:
        try:
            held = await keepers.admit(keeper, [Wanted(limit=limit, amount=60)])
        except HoldsUnavailable:
            await asyncio.sleep(0.01)
    calls, answered = keeper.counts.calls, keeper.counts.calls["renew", "answered"]
    await until(lambda: calls["renew", "answered"] > answered + 2)
    assert standing(world.database, limit, world.now)[1] >= 60
    require_leases_tie(world.database)


async def test_a_stop_in_the_middle_of_a_call_gives_everything_back(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """Else a share of the limit is nobody's until the journal is drained."""
    limit, keeper = requests_limit(world, acme, 100), keepers("p-1")
    await leave_idle(keepers, keeper, limit)
    calling, go_on = threading.Event(), threading.Event()

    def hold_up(*arguments: object) -> None:
        if "renew_process" in str(arguments[2]):
            calling.set()
            go_on.wait()

    event.listen(world.database.engine, "before_cursor_execute", hold_up)
    try:
        await until(calling.is_set)
        stop = asyncio.create_task(keeper.stop())
        await asyncio.sleep(0.02)
        go_on.set()
        await stop
    finally:
        go_on.set()
        event.remove(world.database.engine, "before_cursor_execute", hold_up)
    assert not leased(world, limit)


async def test_a_stop_before_a_call_is_made_gives_everything_back(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """A call that nobody waits for is not made: that is no cancellation of the stop."""
    limit, keeper = requests_limit(world, acme, 100), keepers("p-1")
    await leave_idle(keepers, keeper, limit)
    calls, go_on = keeper._calls, threading.Event()
    calls._thread.submit(go_on.wait)
    await until(lambda: calls._running is not None and not calls._running.done())
    stop = asyncio.create_task(keeper.stop())
    await asyncio.sleep(0.02)
    go_on.set()
    await stop
    assert not leased(world, limit)


@pytest.mark.parametrize("word", ["renew_process", "return_leases"])
async def test_a_defect_in_one_beat_does_not_end_the_others(
    world: World, acme: Tenant, keepers: Keepers, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Without a heart a process would keep what lies idle with it for ever."""
    limit, keeper = requests_limit(world, acme, 100), keepers("p-1")
    await leave_idle(keepers, keeper, limit)
    async with fails_once(world.database.engine, word, ValueError("a defect")) as failed:
        monkeypatch.setattr("api.proxy.control.leases.IDLE_US", -1_000_000)
        await until(lambda: failed)
        await until(lambda: not leased(world, limit))


def listeners(postgres: ServerAddress, name: str) -> list[int]:
    with psycopg.connect(postgres.owner_conninfo("postgres"), autocommit=True) as owner:
        rows = owner.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
            " AND query <> '' AND state = 'idle'",
            (name,),
        )
        return [pid for (pid,) in rows]


async def recall(world: World, limit: Limit, payload: Callable[[Limit], str]) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        connection.execute(
            sa.text("SELECT pg_notify('steelyard_recall', :payload)"), {"payload": payload(limit)}
        )


async def test_a_recall_that_cannot_be_read_does_not_deafen(
    world: World, acme: Tenant, keepers: Keepers, postgres: ServerAddress
) -> None:
    limit = requests_limit(world, acme, 100)
    database = world.database
    conninfo = make_conninfo(database.conninfo(), application_name="unreadable")
    keeper = LeaseKeeper(database, conninfo, "p-1", now=keepers.clock)
    try:
        await leave_idle(keepers, keeper, limit)
        await until(lambda: listeners(postgres, "unreadable"))
        await recall(world, limit, lambda _: "p-2 what?")
        await recall(world, limit, lambda limit: f"p-2 {limit.id}")
        await until(lambda: not leased(world, limit))
    finally:
        await keeper.stop()


async def test_a_black_holed_ear_is_replaced(
    world: World, acme: Tenant, keepers: Keepers, postgres: ServerAddress
) -> None:
    """Something on the way still acknowledges bytes, so that the kernel sees nothing."""
    limit, database = requests_limit(world, acme, 100), world.database
    async with silent_relay(postgres.endpoint) as relay:
        conninfo = make_conninfo(
            database.conninfo(), application_name="ear", host="127.0.0.1", port=str(relay.port)
        )
        keeper = LeaseKeeper(database, conninfo, "p-1", now=keepers.clock)
        try:
            await leave_idle(keepers, keeper, limit)
            await until(lambda: listeners(postgres, "ear"))
            (first,) = relay.tasks()
            relay.silence()
            await until(lambda: relay.tasks() and first not in relay.tasks())
            await until(lambda: listeners(postgres, "ear"))
            await recall(world, limit, lambda limit: f"p-2 {limit.id}")
            await until(lambda: not leased(world, limit))
        finally:
            await keeper.stop()
