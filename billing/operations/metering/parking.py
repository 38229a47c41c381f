"""The parking queue: reports that nothing could count, until they are released or rejected.

A release takes a report through the same ingestion as any other, with the time at which it
occurred; what is still impossible stays parked and the verdict says why. Decisions are final.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from itertools import groupby
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.metering.usage_event import (
    FUTURE_TOLERANCE,
    EventKind,
    UsageReport,
    Verdict,
    VerdictKind,
    require_text,
)
from billing.operations.metering.ingest_usage import BATCH_MAX, ingest_usage
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, acting_as
from billing.store.usage import parked as store
from billing.store.usage.parked import DecisionRow, ParkedRow

SYSTEM = "system"
"""Who releases what has become countable without being asked."""


def release_parked(
    connection: sa.Connection, *, parked_id: UUID, actor: str, now: datetime
) -> Verdict:
    """Take one parked report into the ledger, as the operator.

    Returns:
        Its verdict: accepted; parked, with the reason why it still waits; another one if its id
        or its project leave no way, and then it is rejected for good.

    Raises:
        NotFound: no such parked report.
        Conflict: it was decided before.
    """
    row = _undecided(connection, parked_id)
    (verdict,) = _ingest(connection, [row], actor=actor, now=now)
    return verdict


def reject_parked(
    connection: sa.Connection, *, parked_id: UUID, reason: str, actor: str, now: datetime
) -> ParkedRow:
    """Refuse a parked report for good, as the operator; it answers `rejected` from now on.

    Raises:
        NotFound: no such parked report.
        Conflict: it was decided before.
        InvalidInput: a reason that is empty or too long.
    """
    require_text(reason, field="reason")
    row = _undecided(connection, parked_id)
    with acting_as(connection, Role.INGEST):
        decided = store.decide(
            connection,
            DecisionRow(
                parked_id=row.id,
                tenant_id=row.tenant_id,
                decision="rejected",
                event_id=None,
                reason=reason,
                actor=actor,
                decided_at=now,
            ),
        )
    if not decided:
        raise _decided_before()
    return row


def release_ready(connection: sa.Connection, *, now: datetime) -> Counter[VerdictKind]:
    """Release what has become countable: meters that were defined, times that have come.

    Takes at most `BATCH_MAX` reports, as the operator; how many got each verdict.
    """
    rows = store.ready(connection, until=now + FUTURE_TOLERANCE, limit=BATCH_MAX)
    counted: Counter[VerdictKind] = Counter()
    for _, of_tenant in groupby(rows, key=lambda row: row.tenant_id):
        verdicts = _ingest(connection, list(of_tenant), actor=SYSTEM, now=now)
        counted.update(verdict.kind for verdict in verdicts)
    return counted


def _ingest(
    connection: sa.Connection, rows: list[ParkedRow], *, actor: str, now: datetime
) -> list[Verdict]:
    """Ingest parked reports of one tenant again."""
    tenant = tenancy_store.tenant_by_id(connection, rows[0].tenant_id)
    reports = [_report(row) for row in rows]
    with acting_as(connection, Role.INGEST):
        return ingest_usage(connection, reports, tenant=tenant, now=now, actor=actor)


def _report(row: ParkedRow) -> UsageReport:
    return UsageReport(
        source=row.source,
        foreign_id=row.foreign_id,
        meter=row.meter,
        quantity=row.quantity,
        occurred_at=row.occurred_at,
        model=row.model,
        project=row.project,
        kind=EventKind(row.kind),
        body=row.body_hash,
    )


def _undecided(connection: sa.Connection, parked_id: UUID) -> ParkedRow:
    row = store.parked_by_id(connection, parked_id)
    if row is None:
        raise NotFound("no such parked report", field="parked_id")
    keys = [(row.source, row.foreign_id)]
    known = store.parked_keys(connection, tenant_id=row.tenant_id, keys=keys)
    if known[keys[0]].decision is not None:
        raise _decided_before()
    return row


def _decided_before() -> Conflict:
    return Conflict(
        "this parked report was decided before",
        field="parked_id",
        remedy="list what waits with `steelyard usage parked list`",
    )
