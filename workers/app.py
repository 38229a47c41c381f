"""The worker's application, and how it runs until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import procrastinate
import structlog
from procrastinate.exceptions import ConnectorException
from sqlalchemy.exc import OperationalError

from billing.errors import SteelyardError
from billing.exit_status import end_process
from billing.operations.deployment import opened_database, wait_for_database
from billing.payments.client import make_client
from billing.settings import Settings, read_settings
from billing.stop_signal import stop_signal
from billing.store.database import Database, Role
from billing.store.lines import PATIENT, AsyncLine, answers_within
from workers.tasks import Tools, add_tasks

log = structlog.get_logger("steelyard.worker")

CONCURRENCY = 4
SHUTDOWN_SECONDS = 10
CONNECTION_SECONDS = 5
"""How long a job waits for a connection; without an end, an outage would seem to be none."""

QUEUE_ANSWER_MS = 30_000
"""How long a statement of the queue of jobs may take; those of a job have their own limit."""

PAUSE_MS_MIN = 500
PAUSE_MS_MAX = 10_000
STEADY_MS = 60_000
"""Jobs that ran this long begin again soon."""


def make_app(database: Database, settings: Settings) -> procrastinate.App:
    """The worker's application: its connections act as the operator."""
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(
            conninfo=database.conninfo(),
            connection_class=AsyncLine,
            kwargs={"options": f"-c role={Role.OPERATOR.value}", **PATIENT},
            timeout=CONNECTION_SECONDS,
        )
    )
    stripe_client = None
    if settings.stripe_api_key is not None:
        stripe_client = make_client(
            settings.stripe_api_key.get_secret_value(), settings.stripe_base_url
        )
    add_tasks(app, Tools(database=database, stripe=stripe_client, settings=settings))
    return app


@asynccontextmanager
async def opened(app: procrastinate.App) -> AsyncGenerator[None]:
    """The application with its connections, which give up a server that stands still."""
    with answers_within(QUEUE_ANSWER_MS):
        async with app.open_async():
            yield


async def run(database: Database, settings: Settings) -> None:
    """Run jobs until SIGTERM or SIGINT; those under way get ten seconds.

    While the database is away it waits, with growing pauses, and begins again.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    asked = asyncio.create_task(stopping.wait())
    pause_ms = PAUSE_MS_MIN
    while not stopping.is_set():
        began_ms = _now_ms()
        work = asyncio.create_task(_run_jobs(make_app(database, settings)))
        await asyncio.wait({work, asked}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        with suppress(asyncio.CancelledError, ConnectorException, OperationalError):
            await work
        if stopping.is_set():
            return
        pause_ms = PAUSE_MS_MIN if _now_ms() - began_ms >= STEADY_MS else pause_ms
        log.error("the database went away; jobs wait for it", pause_ms=pause_ms)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_ms / 1000):
                await stopping.wait()
        pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)


async def _run_jobs(app: procrastinate.App) -> None:
    """Run jobs until cancelled, or until the database goes away."""
    async with opened(app):
        log.info("worker runs jobs")
        await app.run_worker_async(
            concurrency=CONCURRENCY,
            shutdown_graceful_timeout=SHUTDOWN_SECONDS,
            install_signal_handlers=False,
        )


def main() -> None:
    """Start from the environment, once the database answers."""
    stopping = stop_signal()
    try:
        settings = read_settings()
        if not wait_for_database(settings, stopping, told=_tell_waiting):
            return
        tune_interpreter()
        with opened_database(
            settings, pool_size=CONCURRENCY + 1, answer_ms=settings.worker_statement_ms
        ) as database:
            if not stopping.is_set():
                asyncio.run(run(database, settings))
    except SteelyardError as error:
        end_process(error)


def tune_interpreter() -> None:
    """Look for garbage seldom: a page of rated lines is many objects, and none is in a cycle.

    By default half of the time of posting a page went into the search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _tell_waiting(pause_ms: int) -> None:
    log.error("the database does not answer; jobs wait for it", pause_ms=pause_ms)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
