"""The worker's application, and how it runs until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import sys

import procrastinate
import structlog

from billing.errors import SteelyardError
from billing.operations.deployment import opened_database
from billing.payments.client import make_client
from billing.settings import Settings, read_settings
from billing.store.database import Database, Role
from workers.tasks import Tools, add_tasks

log = structlog.get_logger("steelyard.worker")

CONCURRENCY = 4
SHUTDOWN_SECONDS = 10


def make_app(database: Database, settings: Settings) -> procrastinate.App:
    """The worker's application: its connections act as the operator."""
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(
            conninfo=database.conninfo(), kwargs={"options": f"-c role={Role.OPERATOR.value}"}
        )
    )
    stripe_client = None
    if settings.stripe_api_key is not None:
        stripe_client = make_client(
            settings.stripe_api_key.get_secret_value(), settings.stripe_base_url
        )
    add_tasks(app, Tools(database=database, stripe=stripe_client, settings=settings))
    return app


async def run(app: procrastinate.App) -> None:
    """Run jobs until told to stop; those under way get ten seconds."""
    async with app.open_async():
        log.info("worker runs jobs")
        await app.run_worker_async(
            concurrency=CONCURRENCY, shutdown_graceful_timeout=SHUTDOWN_SECONDS
        )


def main() -> None:
    """Start from the environment."""
    try:
        settings = read_settings()
        with opened_database(settings, pool_size=CONCURRENCY + 1) as database:
            asyncio.run(run(make_app(database, settings)))
    except SteelyardError as error:
        sys.exit(f"error: {error}")
