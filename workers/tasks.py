"""The jobs of the worker, on PostgreSQL (D15): Stripe's two, and the periodic ones.

A task holds no rules of its own: it opens what an operation needs and calls it. What fails for a
passing reason is retried with growing pauses; what needs a person stays failed and visible.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import procrastinate
import structlog
from procrastinate.jobs import Status
from sqlalchemy.exc import OperationalError

from billing.errors import Conflict, StripeUnavailable
from billing.operations.payments.mirror_invoice import enqueue_mirror, mirror_invoice
from billing.operations.payments.stripe_events import apply_event, catch_up
from billing.settings import Settings
from billing.store import jobs
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions
from workers.batches import settle_batches
from workers.lease_sweep import free_lost_leases
from workers.rating import accrue_changes, every
from workers.reconciler import Reconciler
from workers.sealer import SealWatch, seal_ledgers
from workers.stored_objects import retire_objects
from workers.upkeep import check_rollups, free_holds, keep_months, release_parked, tend_credit

if TYPE_CHECKING:
    import stripe

log = structlog.get_logger("steelyard.worker")

CATCH_UP_WINDOW = timedelta(days=3)
"""Stripe stops redelivering a webhook after this long."""

PASSING = procrastinate.RetryStrategy(
    max_attempts=12,
    exponential_wait=3,
    retry_exceptions=(StripeUnavailable, Conflict, OperationalError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What tasks work with; `stripe` is None where it is not configured."""

    database: Database
    stripe: stripe.StripeClient | None
    settings: Settings

    def require_stripe(self) -> stripe.StripeClient:
        """The client of a job that cannot do without.

        Raises:
            StripeUnavailable: a job that returned would count as done and never come again.
        """
        if self.stripe is None:
            raise StripeUnavailable(
                "Stripe is not configured for this worker",
                field="stripe_api_key",
                remedy="set STEELYARD_STRIPE_API_KEY and start the worker again",
            )
        return self.stripe


def add_tasks(app: procrastinate.App, tools: Tools) -> None:
    """Register every task under its stable name."""

    @app.task(name=jobs.MIRROR_INVOICE, retry=PASSING)
    async def mirror(invoice_id: str) -> None:
        client = tools.require_stripe()
        await asyncio.to_thread(
            mirror_invoice, tools.database, client, UUID(invoice_id), now=datetime.now(UTC)
        )

    @app.task(name=jobs.APPLY_STRIPE_EVENT, retry=PASSING)
    async def apply(event_id: str) -> None:
        client = tools.require_stripe()
        await asyncio.to_thread(
            apply_event, tools.database, client, event_id, now=datetime.now(UTC)
        )

    @app.periodic(cron="*/10 * * * *")
    @app.task(name="catch_up_with_stripe", queueing_lock="catch_up_with_stripe", retry=PASSING)
    async def catch_up_with_stripe(timestamp: int) -> None:
        if tools.stripe is not None:
            now = _instant(timestamp)
            await asyncio.to_thread(
                catch_up, tools.database, tools.stripe, since=now - CATCH_UP_WINDOW, now=now
            )

    @app.periodic(cron="* * * * *")
    @app.task(name="revive_stalled_jobs", queueing_lock="revive_stalled_jobs")
    async def revive(timestamp: int) -> None:
        del timestamp
        await revive_stalled(app)

    @app.periodic(cron="7 * * * *")
    @app.task(name="ensure_usage_partitions", queueing_lock="ensure_usage_partitions")
    async def partitions(timestamp: int) -> None:
        await asyncio.to_thread(make_partitions, tools.database, now=_instant(timestamp))

    @app.periodic(cron="* * * * * */15")
    @app.task(name="seal_ledgers", queueing_lock="seal_ledgers")
    async def seal(timestamp: int) -> None:
        await asyncio.to_thread(
            seal_ledgers, tools.database, tools.settings, now=_instant(timestamp)
        )

    watch = SealWatch(tools.database)

    @app.periodic(cron="*/5 * * * *")
    @app.task(name="check_recent_seal", queueing_lock="check_recent_seal")
    async def check(timestamp: int) -> None:
        del timestamp
        await asyncio.to_thread(watch.check)

    add_rating(app, tools)
    add_upkeep(app, tools)
    add_reconciler(app, Reconciler(tools.database, tools.settings))
    add_batches(app, tools)
    add_stored_objects(app, tools)


def add_rating(app: procrastinate.App, tools: Tools) -> None:
    """Register the periodic task that keeps accruals current."""

    @app.periodic(cron=every(tools.settings.accrual_interval_s))
    @app.task(name="accrue_usage", queueing_lock="accrue_usage", lock="accrue_usage")
    async def accrue(timestamp: int) -> None:
        await asyncio.to_thread(
            accrue_changes,
            tools.database,
            enqueue_mirror=None if tools.stripe is None else enqueue_mirror,
            now=_instant(timestamp),
        )


def add_upkeep(app: procrastinate.App, tools: Tools) -> None:
    """Register the periodic tasks that look after usage, credit and holds."""

    @app.periodic(cron="* * * * * */30")
    @app.task(name="release_parked", queueing_lock="release_parked")
    async def release(timestamp: int) -> None:
        await asyncio.to_thread(release_parked, tools.database, now=_instant(timestamp))

    @app.periodic(cron="23 3 * * *")
    @app.task(name="check_rollups", queueing_lock="check_rollups")
    async def check(timestamp: int) -> None:
        del timestamp
        await asyncio.to_thread(check_rollups, tools.database)

    @app.periodic(cron="41 4 * * *")
    @app.task(name="keep_months", queueing_lock="keep_months", retry=PASSING)
    async def keep(timestamp: int) -> None:
        await asyncio.to_thread(
            keep_months, tools.database, tools.settings, now=_instant(timestamp)
        )

    @app.periodic(cron="* * * * *")
    @app.task(name="tend_credit", queueing_lock="tend_credit")
    async def tend(timestamp: int) -> None:
        await asyncio.to_thread(
            tend_credit, tools.database, tools.settings, now=_instant(timestamp)
        )

    @app.periodic(cron="* * * * * */10")
    @app.task(name="free_holds", queueing_lock="free_holds")
    async def free(timestamp: int) -> None:
        await asyncio.to_thread(free_holds, tools.database, now=_instant(timestamp))

    @app.periodic(cron="* * * * * */10")
    @app.task(name="free_lost_leases", queueing_lock="free_lost_leases")
    async def sweep(timestamp: int) -> None:
        await asyncio.to_thread(free_lost_leases, tools.database, now=_instant(timestamp))


def add_reconciler(app: procrastinate.App, reconciler: Reconciler) -> None:
    """Register the periodic tasks that compare engines' counters with the ledger."""

    @app.periodic(cron="* * * * * */15")
    # Two looks at a time, recorded in the wrong order, would show counters that fall.
    @app.task(name="sample_engines", queueing_lock="sample_engines", lock="sample_engines")
    async def sample(timestamp: int) -> None:
        del timestamp
        await asyncio.to_thread(reconciler.sample)

    @app.periodic(cron="*/5 * * * *")
    @app.task(name="reconcile_leakage", queueing_lock="reconcile_leakage")
    async def reconcile(timestamp: int) -> None:
        await asyncio.to_thread(reconciler.reconcile, now=_instant(timestamp))


def add_batches(app: procrastinate.App, tools: Tools) -> None:
    """Register the periodic task that bills what backends ran in batches."""

    @app.periodic(cron="* * * * * */10")
    @app.task(name="settle_batches", queueing_lock="settle_batches", lock="settle_batches")
    async def settle(timestamp: int) -> None:
        del timestamp
        # Of now, not of its turn: one that waited for a long file would ask too often.
        await asyncio.to_thread(
            settle_batches, tools.database, tools.settings, now=datetime.now(UTC)
        )


def add_stored_objects(app: procrastinate.App, tools: Tools) -> None:
    """Register the periodic task that lets objects of backends leave."""

    @app.periodic(cron="19 * * * *")
    @app.task(name="retire_objects", queueing_lock="retire_objects", lock="retire_objects")
    async def retire(timestamp: int) -> None:
        await asyncio.to_thread(
            retire_objects, tools.database, tools.settings, now=_instant(timestamp)
        )


async def revive_stalled(app: procrastinate.App) -> None:
    """Give back the jobs of workers that died.

    A job that was under way keeps its lock: without this no later invoice of its tenant would
    ever reach Stripe. Periodic jobs are not repeated, since their next turn does the same.
    """
    for job in await app.job_manager.get_stalled_jobs():
        assert job.id is not None
        log.warning("a worker died in a job", task=job.task_name, job=job.id)
        if job.queueing_lock is None:
            await app.job_manager.retry_job(job)
        else:
            await app.job_manager.finish_job_by_id_async(
                job.id, status=Status.FAILED, delete_job=False
            )


def make_partitions(database: Database, *, now: datetime) -> None:
    """Make the usage ledger's next partitions well before they are needed."""
    with database.transaction(Role.MAINTAINER) as connection:
        made = ensure_partitions(connection, now=now)
    if made:
        log.info("made usage partitions", partitions=made)


def _instant(timestamp: int) -> datetime:
    """The instant for which a periodic task was scheduled, in seconds since 1970."""
    return datetime.fromtimestamp(timestamp, UTC)
