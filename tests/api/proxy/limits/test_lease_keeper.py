"""L6 where it is decided: keepers of leases over one database, many requests at once."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from api.proxy.control.leases import LeaseKeeper
from api.proxy.limit_errors import HoldsUnavailable, LimitReached
from billing.admission.lease_book import Held, Wanted
from billing.admission.limit import Limit, Unit, Window
from billing.metering.event_id import microseconds
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.api.proxy.conftest import until
from tests.operations.lease_world import make_limit, require_leases_tie, standing
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant("acme")


class Clock:
    """A clock that a test sets; it goes on by itself."""

    def __init__(self, at: datetime) -> None:
        self.ahead = at - datetime.now(UTC)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    @property
    def us(self) -> int:
        return microseconds(self())


class Keepers:
    """Keepers of one database, as in so many processes."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self._world = world
        self._stack = stack
        self.clock = Clock(world.now)

    def __call__(self, name: str) -> LeaseKeeper:
        database = self._world.database
        keeper = LeaseKeeper(database, database.conninfo(), name, now=self.clock)
        self._stack.push_async_callback(keeper.stop)
        return keeper

    async def admit(self, keeper: LeaseKeeper, wanted: list[Wanted]) -> Held:
        now_us = self.clock.us
        return keeper.take(wanted, now_us) or await keeper.obtain(wanted, now_us)

    async def tries(self, keeper: LeaseKeeper, wanted: list[Wanted]) -> Held | None:
        try:
            return await self.admit(keeper, wanted)
        except LimitReached:
            return None


@pytest.fixture
async def keepers(world: World) -> AsyncIterator[Keepers]:
    async with AsyncExitStack() as stack:
        yield Keepers(world, stack)


def requests_limit(
    world: World,
    acme: Tenant,
    capacity: int,
    *,
    span: Window = Window.NONE,
    hard: bool = True,
) -> Limit:
    return make_limit(
        world.database,
        acme,
        "calls",
        str(capacity),
        now=world.now,
        unit=Unit.REQUESTS,
        span=span,
        hard=hard,
    )


@pytest.mark.parametrize("processes", [1, 4])
async def test_L6_five_hundred_at_a_limit_of_ten_admit_ten(
    world: World, acme: Tenant, keepers: Keepers, processes: int
) -> None:
    limit = requests_limit(world, acme, 10)
    fleet = [keepers(f"p-{number}") for number in range(processes)]
    one = [Wanted(limit=limit, amount=1)]
    answers = await asyncio.gather(
        *(keepers.tries(fleet[number % processes], one) for number in range(500))
    )
    assert sum(held is not None for held in answers) == 10
    require_leases_tie(world.database)


async def test_a_refusal_is_free_once_it_was_told(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """In a circle it would keep the request that it was told to, under a storm of refusals each."""
    limit = requests_limit(world, acme, 10)
    keeper = keepers("p-1")
    gc.collect()
    gc.disable()
    try:
        for amount in (20, 20, 11):
            assert await keepers.tries(keeper, [Wanted(limit=limit, amount=amount)]) is None
        await until(lambda: not any(isinstance(each, LimitReached) for each in gc.get_objects()))
    finally:
        gc.enable()


async def test_a_request_that_comes_as_a_call_lands_waits_for_a_call_of_its_own(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """It asks for less than was refused, so memory does not refuse it."""
    limit = requests_limit(world, acme, 10)
    keeper = keepers("p-1")
    first = asyncio.create_task(keepers.tries(keeper, [Wanted(limit=limit, amount=20)]))
    while not keeper._flights:  # noqa: ASYNC110  # turns of the loop are what is counted here
        await asyncio.sleep(0)
    (flight,) = keeper._flights.values()
    while not flight.done():  # noqa: ASYNC110  # the same; in this turn nobody was told of its end
        await asyncio.sleep(0)
    assert keeper._flights
    # It waited for the landed one until its patience was over, and the loop for it.
    assert await keepers.tries(keeper, [Wanted(limit=limit, amount=11)]) is None
    assert await first is None


async def test_L6_a_limit_is_used_to_its_end_by_four_processes(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 1000)
    fleet = [keepers(f"p-{number}") for number in range(4)]
    used = 0

    async def work(keeper: LeaseKeeper) -> None:
        nonlocal used
        while (held := await keepers.tries(keeper, [Wanted(limit=limit, amount=7)])) is not None:
            used += 7
            ((lease, _),) = held.parts
            keeper.release(held, {lease.id: 7})

    await asyncio.gather(*(work(keeper) for keeper in fleet for _ in range(5)))
    assert 950 <= used <= 1000


async def test_what_lies_idle_elsewhere_is_recalled_before_a_refusal(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 100)
    hoarder, needy = keepers("p-1"), keepers("p-2")
    held = await keepers.admit(hoarder, [Wanted(limit=limit, amount=80)])
    await asyncio.sleep(0.2)  # its ear opens
    hoarder.release(held, {})
    assert standing(world.database, limit, world.now)[1] >= 80
    assert await keepers.admit(needy, [Wanted(limit=limit, amount=90)])


async def test_a_refusal_says_how_it_stands_and_is_not_asked_twice(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 10, span=Window.MINUTE)
    keeper = keepers("p-1")
    await keepers.admit(keeper, [Wanted(limit=limit, amount=8)])
    three = [Wanted(limit=limit, amount=3)]
    with pytest.raises(LimitReached) as refused:
        await keepers.admit(keeper, three)
    assert (refused.value.used, refused.value.capacity) == (8, 10)
    assert refused.value.resets_us is not None
    assert not refused.value.is_quota
    asked = keeper.counts.calls["lease", "answered"]
    for _ in range(50):
        assert await keepers.tries(keeper, three) is None
    assert keeper.counts.calls["lease", "answered"] == asked
    assert await keepers.tries(keeper, [Wanted(limit=limit, amount=2)]) is not None


async def test_a_refusal_ends_with_its_window(world: World, acme: Tenant, keepers: Keepers) -> None:
    """Remembered any longer it would refuse what the new minute has room for."""
    limit = requests_limit(world, acme, 1, span=Window.MINUTE)
    keeper = keepers("p-1")
    one = [Wanted(limit=limit, amount=1)]
    assert await keepers.tries(keeper, one) is not None
    for _ in range(5):
        assert await keepers.tries(keeper, one) is None
        keepers.clock.ahead += timedelta(minutes=1)
        assert await keepers.tries(keeper, one) is not None


async def test_a_request_updates_no_row(world: World, acme: Tenant, keepers: Keepers) -> None:
    limit = requests_limit(world, acme, 1_000_000)
    keeper = keepers("p-1")
    calls = 0

    def count(*arguments: object) -> None:
        nonlocal calls
        calls += "lease_limits" in str(arguments[2])

    event.listen(world.database.engine, "before_cursor_execute", count)
    try:
        for _ in range(1000):
            held = await keepers.admit(keeper, [Wanted(limit=limit, amount=1)])
            ((lease, _),) = held.parts
            keeper.release(held, {lease.id: 1})
            await asyncio.sleep(0)
    finally:
        event.remove(world.database.engine, "before_cursor_execute", count)
    assert 1 <= calls <= 40


async def test_a_limit_that_only_counts_refuses_nothing(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 5, hard=False)
    keeper = keepers("p-1")
    soft = [Wanted(limit=limit, amount=1, blocks=False)]
    told: list[bool] = []
    for _ in range(12):
        held = await keepers.admit(keeper, soft)
        told.append(bool(held.exceeded))
        ((lease, _),) = held.parts
        keeper.release(held, {lease.id: 1})
    assert told == [False] * 5 + [True] * 7


async def test_idle_leases_go_back_by_themselves(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 100)
    keeper = keepers("p-1")
    held = await keepers.admit(keeper, [Wanted(limit=limit, amount=10)])
    keeper.release(held, {})
    assert standing(world.database, limit, world.now)[1] >= 10
    keepers.clock.ahead += timedelta(seconds=10)
    await until(lambda: not standing(world.database, limit, world.now)[1])
    held = await keepers.admit(keeper, [Wanted(limit=limit, amount=100)])
    require_leases_tie(world.database)


async def test_a_process_that_was_swept_forgets_its_leases_and_begins_anew(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 100)
    keeper, other = keepers("p-1"), keepers("p-2")
    held = await keepers.admit(keeper, [Wanted(limit=limit, amount=60)])
    with world.database.transaction(Role.OPERATOR) as connection:
        connection.execute(
            sa.text("SELECT * FROM sweep_leases(:at)"), {"at": world.now + timedelta(hours=1)}
        )
    assert await keepers.tries(other, [Wanted(limit=limit, amount=90)]) is not None
    async with asyncio.timeout(10):  # until the heartbeat has found out
        while await keepers.tries(keeper, [Wanted(limit=limit, amount=5)]) is not None:  # noqa: ASYNC110  # the heartbeat tells nobody
            await asyncio.sleep(0.2)
    keeper.release(held, {})
    assert await keepers.tries(keeper, [Wanted(limit=limit, amount=11)]) is None


async def test_while_the_database_is_away_what_is_leased_is_used(
    world: World, acme: Tenant, keepers: Keepers, postgres, database_name: str
) -> None:
    limit = requests_limit(world, acme, 1000)
    away = Database(world.database.engine.url.render_as_string(hide_password=False))
    keeper = LeaseKeeper(away, away.conninfo(), "p-1", now=keepers.clock)
    one = [Wanted(limit=limit, amount=1)]
    await keepers.admit(keeper, one)
    away.engine.dispose()
    away._engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:9/none")
    admitted = 0
    began = time.monotonic()
    with suppress(HoldsUnavailable):
        while admitted < 1000:
            await keepers.admit(keeper, one)
            admitted += 1
    assert admitted < 1000
    assert admitted >= 64
    assert time.monotonic() - began < 60
    await keeper.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls about leases give up, and their connections go, within moments."""
    monkeypatch.setattr("api.proxy.control.lease_calls.ANSWER_MS", 300)
    monkeypatch.setattr("api.proxy.control.lease_calls.CALL_MS", 200)


@pytest.mark.usefixtures("impatient")
async def test_L6_a_server_process_that_stands_still_is_replaced(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    """What became of the call is not known; it is settled, whether it was carried out or not."""
    limit = requests_limit(world, acme, 10)
    keeper = keepers("p")
    pids: list[int] = []

    def stop_before_commit(connection: sa.Connection) -> None:
        if not pids:
            driver = connection.connection.driver_connection
            assert driver is not None
            pids.append(driver.info.backend_pid)
            os.kill(pids[0], signal.SIGSTOP)

    one = [Wanted(limit=limit, amount=1)]
    event.listen(world.database.engine, "commit", stop_before_commit)
    try:
        with pytest.raises(HoldsUnavailable):
            await keeper.obtain(one, keepers.clock.us)
        # The call that stands still goes on as soon as it can: what it has locked is free then.
        os.kill(pids[0], signal.SIGCONT)
        held: list[Held] = []

        async def admitted() -> None:
            async with asyncio.timeout(60):
                while len(held) < 10:
                    with suppress(HoldsUnavailable):
                        held.append(await keepers.admit(keeper, one))
                    await asyncio.sleep(0.02)

        await admitted()
        with pytest.raises(LimitReached):
            await keepers.admit(keeper, one)
    finally:
        event.remove(world.database.engine, "commit", stop_before_commit)
        os.kill(pids[0], signal.SIGCONT)
    require_leases_tie(world.database)


@pytest.mark.usefixtures("impatient")
async def test_L6_leases_go_on_beside_a_server_process_that_stands_still(
    world: World, acme: Tenant, keepers: Keepers
) -> None:
    limit = requests_limit(world, acme, 10)
    later = make_limit(
        world.database, acme, "later", "10", now=world.now, unit=Unit.REQUESTS, hard=True
    )
    other = [Wanted(limit=later, amount=1)]
    keeper = keepers("p")
    await keepers.admit(keeper, [Wanted(limit=limit, amount=1)])
    with world.database.engine.connect() as connection:  # the one that lies idle in the pool
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            while True:
                with suppress(HoldsUnavailable):
                    await keepers.admit(keeper, other)
                    break
                await asyncio.sleep(0.02)
    finally:
        os.kill(pid, signal.SIGCONT)
    require_leases_tie(world.database)
