"""The parking queue: reports that nothing could count, until they are released or rejected.

A release takes a report through the same ingestion as any other, with the time at which it
occurred; what is still impossible stays parked and the verdict says why. An event that kept its
data is measured again, by the meters that are in force for it then. Decisions are final.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, InvalidInput, NotFound
from billing.metering.cloud_event import CloudEvent
from billing.metering.usage_event import (
    FUTURE_TOLERANCE,
    EventKind,
    UsageReport,
    Verdict,
    VerdictKind,
    require_text,
)
from billing.metering.waiting_event import read_data
from billing.operations.metering.ingest_usage import BATCH_MAX, ingest_usage
from billing.operations.metering.measure_events import measure_events
from billing.operations.metering.report_terms import rejected
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
        decided = store.decide(connection, _rejection(row, reason, actor=actor, now=now))
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
    """Ingest parked reports of one tenant again; one verdict each, in order."""
    tenant = tenancy_store.tenant_by_id(connection, rows[0].tenant_id)
    found = _reports(connection, rows)
    reports = [each for each in found if isinstance(each, UsageReport)]
    with acting_as(connection, Role.INGEST):
        verdicts = iter(ingest_usage(connection, reports, tenant=tenant, now=now, actor=actor))
        return [
            next(verdicts)
            if isinstance(each, UsageReport)
            else _refuse(connection, row, str(each), actor=actor, now=now)
            for row, each in zip(rows, found, strict=True)
        ]


def _refuse(
    connection: sa.Connection, row: ParkedRow, reason: str, *, actor: str, now: datetime
) -> Verdict:
    """Refuse an event for good that every meter of its type leaves out, or cannot read."""
    store.decide(connection, _rejection(row, reason, actor=actor, now=now))
    return rejected(reason)


def _rejection(row: ParkedRow, reason: str, *, actor: str, now: datetime) -> DecisionRow:
    return DecisionRow(
        parked_id=row.id,
        tenant_id=row.tenant_id,
        decision="rejected",
        event_id=None,
        reason=reason,
        actor=actor,
        decided_at=now,
    )


def _reports(connection: sa.Connection, rows: list[ParkedRow]) -> list[UsageReport | InvalidInput]:
    """What each row reports by the meters of now; an error where they cannot use it."""
    measured = iter(
        measure_events(connection, [event for row in rows if (event := _event(row)) is not None])
    )
    found: list[UsageReport | InvalidInput] = []
    for row in rows:
        each = _report(row) if row.data is None else next(measured)
        # It is the body that was parked, whatever meters make of it.
        found.append(replace(each, body=row.body_hash) if isinstance(each, UsageReport) else each)
    return found


def _event(row: ParkedRow) -> CloudEvent | None:
    if row.event_type is None or row.data is None:
        return None
    return CloudEvent(
        source=row.source,
        id=row.foreign_id,
        type=row.event_type,
        time=row.occurred_at,
        data=read_data(row.data),
    )


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
    )


def _undecided(connection: sa.Connection, parked_id: UUID) -> ParkedRow:
    row = store.parked_by_id(connection, parked_id)
    if row is None:
        raise NotFound("no such parked report", field="parked_id", remedy="list what is parked")
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
