"""The worker's upkeep of the usage ledger: parked reports, rollups, months that may leave.

How often is decided in `workers/tasks.py`.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime

import structlog

from billing.metering.usage_event import VerdictKind
from billing.operations.metering.parking import release_ready
from billing.operations.metering.verify_rollups import RollupDifference, verify_rollups
from billing.operations.retention.archive_month import apply_retention, configured_place
from billing.settings import Settings
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.upkeep")


def release_parked(database: Database, *, now: datetime) -> Counter[VerdictKind]:
    """Count parked reports that have become countable; how many got each verdict."""
    with database.transaction(Role.OPERATOR) as connection:
        counted = release_ready(connection, now=now)
    if counted:
        log.info("released parked usage", **{kind.value: n for kind, n in counted.items()})
    return counted


def check_rollups(database: Database) -> list[RollupDifference]:
    """Compare every rollup with its events, and log each that differs: bills come from them."""
    with database.transaction(Role.OPERATOR, snapshot=True) as connection:
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
