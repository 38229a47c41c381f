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
from sqlalchemy.exc import OperationalError

from billing.errors import Conflict, StripeUnavailable
from billing.operations.payments.mirror_invoice import mirror_invoice
from billing.operations.payments.stripe_events import apply_event, catch_up
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.tenancy.tenants import list_tenants
from billing.store import jobs
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions

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


def add_tasks(app: procrastinate.App, tools: Tools) -> None:
    """Register every task under its stable name."""

    @app.task(name=jobs.MIRROR_INVOICE, retry=PASSING)
    async def mirror(invoice_id: str) -> None:
        if tools.stripe is None:
            log.error("an invoice waits for Stripe, which is not configured", invoice=invoice_id)
            return
        await asyncio.to_thread(
            mirror_invoice, tools.database, tools.stripe, UUID(invoice_id), now=datetime.now(UTC)
        )

    @app.task(name=jobs.APPLY_STRIPE_EVENT, retry=PASSING)
    async def apply(event_id: str) -> None:
        if tools.stripe is None:
            log.error("an event waits for Stripe, which is not configured", stripe_event=event_id)
            return
        await asyncio.to_thread(
            apply_event, tools.database, tools.stripe, event_id, now=datetime.now(UTC)
        )

    @app.periodic(cron="* * * * *")
    @app.task(name="accrue_usage", queueing_lock="accrue_usage")
    async def accrue(timestamp: int) -> None:
        await asyncio.to_thread(accrue_everybody, tools.database, now=_instant(timestamp))

    @app.periodic(cron="*/10 * * * *")
    @app.task(name="catch_up_with_stripe", queueing_lock="catch_up_with_stripe", retry=PASSING)
    async def catch_up_with_stripe(timestamp: int) -> None:
        if tools.stripe is not None:
            now = _instant(timestamp)
            await asyncio.to_thread(
                catch_up, tools.database, tools.stripe, since=now - CATCH_UP_WINDOW, now=now
            )

    @app.periodic(cron="7 * * * *")
    @app.task(name="ensure_usage_partitions", queueing_lock="ensure_usage_partitions")
    async def partitions(timestamp: int) -> None:
        await asyncio.to_thread(make_partitions, tools.database, now=_instant(timestamp))


def accrue_everybody(database: Database, *, now: datetime) -> None:
    """Bring the accruals of every tenant's current billing period up to date."""
    with database.transaction(Role.OPERATOR) as connection:
        tenants = list_tenants(connection)
    for tenant in tenants:
        with database.transaction(Role.OPERATOR) as connection:
            accrue_usage(connection, tenant=tenant, period=tenant.billing_period(now), now=now)


def make_partitions(database: Database, *, now: datetime) -> None:
    """Make the usage ledger's next partitions well before they are needed."""
    with database.transaction(Role.MAINTAINER) as connection:
        made = ensure_partitions(connection, now=now)
    if made:
        log.info("made usage partitions", partitions=made)


def _instant(timestamp: int) -> datetime:
    """The instant for which a periodic task was scheduled, in seconds since 1970."""
    return datetime.fromtimestamp(timestamp, UTC)
