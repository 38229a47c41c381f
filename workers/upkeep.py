"""The worker's upkeep: parked reports, rollups, months that may leave, credit and holds.

How often is decided in `workers/tasks.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, astuple, dataclass
from datetime import date, datetime
from functools import partial

import structlog

from billing.errors import SteelyardError
from billing.ledger.top_up import TopUpAnswer
from billing.metering.usage_event import VerdictKind
from billing.operations.credits.lapse_credits import expire_grants, issue_recurring
from billing.operations.credits.top_ups import consider_top_up, list_policies
from billing.operations.holds.holds import expire_holds
from billing.operations.metering.parking import release_ready
from billing.operations.metering.verify_rollups import RollupDifference, verify_rollups
from billing.operations.retention.archive_month import apply_retention, configured_place
from billing.settings import Settings
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.upkeep")

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tended:
    """What one turn of upkeep did with credit: how many of each."""

    granted_again: int
    expired: int
    top_ups: int


def release_parked(database: Database, *, now: datetime) -> Counter[VerdictKind]:
    """Count parked reports that have become countable; how many got each verdict."""
    with database.transaction(Role.OPERATOR) as connection:
        counted = release_ready(connection, now=now)
    if counted:
        log.info("released parked usage", **{kind.value: n for kind, n in counted.items()})
    return counted


def check_rollups(database: Database) -> list[RollupDifference]:
    """Compare every rollup with its events, and log each that differs: bills come from them."""
    # One statement that reads every event.
    with database.transaction(Role.OPERATOR, snapshot=True, answer_ms=0) as connection:
        found = verify_rollups(connection)
    for difference in found:
        log.error(
            "a rollup is not the sum of its events",
            tenant=difference.tenant,
            bucket=str(difference.bucket),
            meter=difference.meter,
        )
    return found


def keep_months(database: Database, settings: Settings, *, now: datetime) -> list[date]:
    """Archive and drop the months that the deployment no longer keeps; none unless it says so."""
    if settings.retention_months is None:
        return []
    gone = apply_retention(
        database, configured_place(settings), keep_months=settings.retention_months, now=now
    )
    if gone:
        log.info("archived and dropped", months=[f"{month:%Y-%m}" for month in gone])
    return gone


def free_holds(database: Database, *, now: datetime) -> int:
    """Free holds past their end: a limit that nobody asks would keep them for ever."""
    return database.retrying(Role.OPERATOR, lambda connection: expire_holds(connection, now=now))


def tend_credit(database: Database, settings: Settings, *, now: datetime) -> Tended:
    """Grant what recurs, expire what ended, ask for top-ups; each is its own transaction.

    In this order: a tenant whose credit begins anew needs no top-up.
    """
    granted = database.retrying(
        Role.OPERATOR, lambda connection: issue_recurring(connection, now=now)
    )
    expired = database.retrying(
        Role.OPERATOR,
        lambda connection: expire_grants(
            connection, now=now, grace_ms=settings.credit_grace_hours * MS_PER_HOUR
        ),
    )
    tended = Tended(
        granted_again=len(granted), expired=len(expired), top_ups=ask_for_top_ups(database, now=now)
    )
    if any(astuple(tended)):
        log.info("tended credit", **asdict(tended))
    return tended


def ask_for_top_ups(database: Database, *, now: datetime) -> int:
    """Request each top-up that its policy calls for; a tenant that cannot have it stops nobody."""
    with database.transaction(Role.OPERATOR) as connection:
        policies = list_policies(connection)
    requested = 0
    for tenant, code in policies:
        try:
            answer = database.retrying(
                Role.OPERATOR,
                partial(consider_top_up, tenant=tenant, currency_code=code, now=now),
            )
        except SteelyardError as error:
            log.error(  # noqa: TRY400  # expected of data, not a bug: no traceback
                "a top-up cannot be considered", tenant=tenant.slug, code=error.code
            )
            continue
        requested += answer is TopUpAnswer.REQUESTED
        if answer is TopUpAnswer.BURST:
            log.warning("top-ups have reached their burst limit", tenant=tenant.slug)
    return requested
