"""The worker's jobs: none is lost with its worker, and no tenant stands in another's way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import uuid4

import procrastinate
import pytest
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Status

from billing.errors import StripeUnavailable
from billing.settings import Settings
from billing.store import jobs, ledger
from billing.store.database import Database, Role, query, run
from billing.store.lines import PATIENT
from tests.standing_still import standing_still
from tests.world import MONTH_END, make_world, usage_report
from workers.app import make_app, opened
from workers.rating import accrue_changes
from workers.tasks import Tools, revive_stalled

QUANTITY_MAX = 10**18
SERVERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"


def test_a_tenant_that_cannot_be_rated_holds_up_nobody(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    first, second = world.tenant("aaa"), world.tenant("bbb")
    for serial in ("1", "2"):
        world.report(first, usage_report(foreign_id=serial, quantity=QUANTITY_MAX, occurred_at=now))
    world.use(second, {"tokens.input": 1_000_000})
    accrue_changes(database, now=now)
    with database.transaction(Role.OPERATOR) as connection:
        earned = ledger.revenue(connection, period=second.billing_period(now))
    assert {row.tenant for row in earned} == {"bbb"}


def test_usage_of_a_periods_last_minute_is_accrued_after_its_end(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    accrue_changes(database, now=now)
    replace(world, now=MONTH_END).use(
        acme, {"tokens.input": 1_000_000}, occurred_at=MONTH_END - timedelta(seconds=1)
    )
    accrue_changes(database, now=MONTH_END + timedelta(minutes=1))
    with database.transaction(Role.OPERATOR) as connection:
        earned = ledger.revenue(connection, period=acme.billing_period(now))
    assert "input" in {row.line_key for row in earned}


def test_a_job_of_a_dead_worker_comes_back_and_frees_its_lock(database: Database) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        for _ in range(2):
            jobs.enqueue(connection, jobs.MIRROR_INVOICE, lock="stripe-acme", invoice_id="x")

    async def scenario() -> tuple[object, object, object]:
        app = make_app(database, Settings())
        async with app.open_async():
            dead = await app.job_manager.register_worker()
            taken = await app.job_manager.fetch_job(queues=None, worker_id=dead)
            assert taken is not None
            blocked = await app.job_manager.fetch_job(queues=None, worker_id=dead)
            _age_workers(database)
            await revive_stalled(app)
            alive = await app.job_manager.register_worker()
            again = await app.job_manager.fetch_job(queues=None, worker_id=alive)
            return taken.id, blocked, again and again.id

    taken, blocked, again = asyncio.run(scenario())
    assert blocked is None
    assert again == taken


def test_a_periodic_job_of_a_dead_worker_is_not_repeated(database: Database) -> None:
    async def scenario() -> str:
        app = make_app(database, Settings())
        async with app.open_async():
            await app.configure_task("accrue_usage", queueing_lock="accrue_usage").defer_async(
                timestamp=0
            )
            dead = await app.job_manager.register_worker()
            await app.job_manager.fetch_job(queues=None, worker_id=dead)
            await app.configure_task("accrue_usage", queueing_lock="accrue_usage").defer_async(
                timestamp=60
            )
            _age_workers(database)
            await revive_stalled(app)
        with database.transaction(Role.OPERATOR) as connection:
            rows = query(connection, "SELECT status FROM procrastinate_jobs ORDER BY id")
        return " ".join(row.status for row in rows)

    assert asyncio.run(scenario()) == f"{Status.FAILED.value} {Status.TODO.value}"


def test_the_kernel_is_told_to_give_up_a_server_that_vanished(database: Database) -> None:
    async def told() -> dict[str, str]:
        app = make_app(database, Settings())
        assert isinstance(app.connector, procrastinate.PsycopgConnector)
        async with app.open_async(), app.connector.pool.connection() as connection:
            return connection.info.get_parameters()

    parameters = asyncio.run(told())
    for name, figure in PATIENT.items():
        assert parameters[name] == str(figure)


def test_the_queue_does_not_wait_for_servers_that_stand_still(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.app.QUEUE_ANSWER_MS", 200)
    monkeypatch.setattr("workers.app.CONNECTION_SECONDS", 1)
    with database.transaction(Role.OPERATOR) as connection:
        jobs.enqueue(connection, jobs.MIRROR_INVOICE, lock="stripe-acme", invoice_id="x")
        mine = {row.pid for row in query(connection, SERVERS)}

    async def scenario() -> list[int]:
        app = make_app(database, Settings())
        async with opened(app):
            worker = await app.job_manager.register_worker()
            with database.transaction(Role.OPERATOR) as connection:
                pids = [row.pid for row in query(connection, SERVERS) if row.pid not in mine]
            # It finds a new connection in time, or the worker begins anew.
            with standing_still(*pids), suppress(ConnectorException):
                async with asyncio.timeout(30):
                    await app.job_manager.fetch_job(queues=None, worker_id=worker)
            return pids

    assert asyncio.run(scenario())


def test_a_job_that_needs_stripe_is_not_done_without_it(database: Database) -> None:
    app: procrastinate.App = make_app(database, Settings())
    for name, argument in (
        (jobs.MIRROR_INVOICE, {"invoice_id": str(uuid4())}),
        (jobs.APPLY_STRIPE_EVENT, {"event_id": "evt_1"}),
    ):
        with pytest.raises(StripeUnavailable):
            asyncio.run(app.tasks[name](**argument))
    with pytest.raises(StripeUnavailable):
        Tools(database=database, stripe=None, settings=Settings()).require_stripe()


def _age_workers(database: Database) -> None:
    with database.transaction(Role.OPERATOR) as connection:
        run(
            connection,
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'",
        )
