"""Take reported usage events into the ledger: one verdict per event, each event at most once.

A report that nothing can count yet is parked under its id (`parking.py` decides later). An id
means one body for ever, in the ledger and in the parking queue alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.metering.cloud_event import CloudEvent
from billing.metering.event_id import microseconds
from billing.metering.usage_event import Cause, UsageReport, Verdict, VerdictKind
from billing.metering.waiting_event import written_data
from billing.operations.metering.measure_events import measure_events
from billing.operations.metering.report_terms import Terms, parked, rejected
from billing.operations.minting import mint_id, mint_ids
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, acting_as
from billing.store.usage import append as usage_store
from billing.store.usage import parked as parking_store
from billing.store.usage import reported_keys
from billing.store.usage.parked import DecisionRow, ParkedKeyRow, ParkedRow
from billing.store.usage.reported_keys import Known
from billing.store.usage.staged_rows import EncodedOrigin, Report, StagedRows, course_bytes
from billing.tenancy.tenant import Tenant

BATCH_MAX = 10_000
"""Most events of one call: one transaction, one epoch."""

REPORTER = "reporter"
"""Who decides about a parked report by sending it again once it can be counted."""

Key = tuple[str, str]

_OTHER_BODY = "this id was reported before with another body"
_OTHER_ID = "another id has the fingerprint of this one; report the event under a new id"
_COURSE = course_bytes(Cause.REPORTED, False, 0, 0)
_NO_COUNTS = b""


def ingest_usage(
    connection: sa.Connection,
    reports: Sequence[UsageReport],
    *,
    tenant: Tenant,
    now: datetime,
    actor: str = REPORTER,
) -> list[Verdict]:
    """Append reported events of one tenant, in the ingest role's transaction.

    Args:
        actor: on whose behalf parked reports among these are decided.

    Returns:
        One verdict per report, in order: accepted; duplicate, with the id of the first one;
        conflicting, if the id was used for another body; parked, if nothing can count it yet;
        rejected, with a reason. Everything or nothing of the batch is committed by the caller.

    Raises:
        InvalidInput: more than `BATCH_MAX` events.
    """
    require_batch(len(reports))
    terms = Terms(connection, reports, tenant, now=now)
    waiting = _parked_before(connection, reports, tenant)
    verdicts: dict[int, Verdict] = {}
    ids = mint_ids(now, len(reports))
    staged, appendable = StagedRows(reported=True), list[int]()
    unable: list[tuple[int, UsageReport, bytes, str]] = []
    for position, report in enumerate(reports):
        body_hash = report.body_hash()
        counted = _settled(waiting, report, body_hash) or terms.origin(report)
        if isinstance(counted, EncodedOrigin):
            identity = Report(position, report.source, report.foreign_id, body_hash)
            _stage(staged, ids[position], counted, report, identity)
            appendable.append(position)
        elif counted.kind is VerdictKind.PARKED:
            unable.append((position, report, body_hash, counted.reason or ""))
        else:
            verdicts[position] = counted
    if appendable:
        known = usage_store.append_reports(connection, staged)
        for position in appendable:
            verdicts[position] = _verdict(ids[position], known.get(position))
    if unable:
        verdicts |= _park(connection, unable, tenant, now=now)
    if waiting:
        _decide(connection, reports, verdicts, waiting, tenant, actor=actor, now=now)
    return [verdicts[position] for position in range(len(reports))]


def report_usage(
    connection: sa.Connection,
    named: Sequence[tuple[str, UsageReport | CloudEvent]],
    *,
    now: datetime,
) -> list[Verdict]:
    """Append reported events of several tenants, as the operator; each comes with its tenant.

    Returns:
        One verdict per report, in order; `rejected` where no tenant has the slug, and where no
        meter can read a CloudEvent, or every one of its type leaves it out.

    Raises:
        InvalidInput: more than `BATCH_MAX` events.
    """
    require_batch(len(named))
    verdicts: dict[int, Verdict] = {}
    events = iter(
        measure_events(connection, [each for _, each in named if isinstance(each, CloudEvent)])
    )
    reports: dict[int, UsageReport] = {}
    positions: dict[str, list[int]] = {}
    for position, (slug, each) in enumerate(named):
        found = next(events) if isinstance(each, CloudEvent) else each
        if isinstance(found, InvalidInput):
            verdicts[position] = rejected(str(found))
        else:
            reports[position] = found
            positions.setdefault(slug, []).append(position)
    # Sorted, because two batches that lock rows of tenants in opposite orders would deadlock.
    for slug in sorted(positions):
        tenant, places = tenancy_store.tenant(connection, slug), positions[slug]
        if tenant is None:
            verdicts |= dict.fromkeys(places, rejected("tenant: no such tenant"))
            continue
        of_tenant = [reports[place] for place in places]
        # Events are written by the one role that can append them and read nobody's usage.
        with acting_as(connection, Role.INGEST):
            answers = ingest_usage(connection, of_tenant, tenant=tenant, now=now)
        verdicts |= dict(zip(places, answers, strict=True))
    return [verdicts[position] for position in range(len(named))]


def require_batch(size: int) -> None:
    """Check that this many events can come in one call.

    Raises:
        InvalidInput: more than `BATCH_MAX`.
    """
    if size > BATCH_MAX:
        raise InvalidInput("too many events", field="events", remedy=f"send at most {BATCH_MAX}")


def _parked_before(
    connection: sa.Connection, reports: Sequence[UsageReport], tenant: Tenant
) -> dict[Key, ParkedKeyRow]:
    if not parking_store.anything_parked(connection, tenant.id):
        return {}
    keys = [(report.source, report.foreign_id) for report in reports]
    return parking_store.parked_keys(connection, tenant_id=tenant.id, keys=keys)


def _settled(
    waiting: Mapping[Key, ParkedKeyRow], report: UsageReport, body_hash: bytes
) -> Verdict | None:
    """The verdict that an id has for good because it was parked once, or None."""
    known = waiting.get((report.source, report.foreign_id)) if waiting else None
    if known is None:
        return None
    if known.body_hash != body_hash:
        return Verdict(kind=VerdictKind.CONFLICTING, reason=_OTHER_BODY)
    return rejected(known.reason) if known.decision == "rejected" else None


def _stage(
    staged: StagedRows, id: UUID, origin: EncodedOrigin, report: UsageReport, identity: Report
) -> None:
    if report.properties:
        staged.properties[id.bytes] = report.properties
    staged.add(
        id.bytes,
        microseconds(report.occurred_at),
        origin,
        _COURSE,
        [_whole(quantity) for _, quantity in report.quantities],
        _NO_COUNTS,
        identity,
    )


def _whole(quantity: Decimal) -> int | Decimal:
    """A quantity as an integer if it is one: those are added and encoded in a tenth of the time."""
    whole = int(quantity)
    return whole if whole == quantity else quantity


def _verdict(id: UUID, known: Known | None) -> Verdict:
    if known is None:
        return Verdict(kind=VerdictKind.ACCEPTED, event_id=id)
    if not known.same_id:
        return rejected(_OTHER_ID)
    if known.same_body:
        return Verdict(kind=VerdictKind.DUPLICATE, event_id=known.event_id)
    return Verdict(kind=VerdictKind.CONFLICTING, event_id=known.event_id, reason=_OTHER_BODY)


def _park(
    connection: sa.Connection,
    unable: Sequence[tuple[int, UsageReport, bytes, str]],
    tenant: Tenant,
    *,
    now: datetime,
) -> dict[int, Verdict]:
    """Park what nothing can count, unless its id stands for something else already."""
    keys = [(report.source, report.foreign_id) for _, report, _, _ in unable]
    claimed = reported_keys.claimed_keys(connection, tenant_id=tenant.id, keys=keys)
    parking_store.park(
        connection,
        [
            _parked_row(report, body_hash, reason, tenant, now=now)
            for _, report, body_hash, reason in unable
            if (report.source, report.foreign_id) not in claimed
        ],
    )
    # Read back, because another transaction, or this batch, may have parked another body first.
    kept = parking_store.parked_keys(connection, tenant_id=tenant.id, keys=keys)
    verdicts: dict[int, Verdict] = {}
    for position, report, body_hash, reason in unable:
        key = (report.source, report.foreign_id)
        first = claimed.get(key)
        if first is not None:
            same = first.body_hash == body_hash
            verdicts[position] = Verdict(
                kind=VerdictKind.DUPLICATE if same else VerdictKind.CONFLICTING,
                event_id=first.event_id,
                reason=None if same else _OTHER_BODY,
            )
        else:
            verdicts[position] = _settled(kept, report, body_hash) or parked(reason)
    return verdicts


def _parked_row(
    report: UsageReport, body_hash: bytes, reason: str, tenant: Tenant, *, now: datetime
) -> ParkedRow:
    data = None if report.data is None else written_data(report.data)
    return ParkedRow(
        id=mint_id(now),
        tenant_id=tenant.id,
        source=report.source,
        foreign_id=report.foreign_id,
        body_hash=body_hash,
        meter=report.meter,
        model=report.model,
        project=report.project,
        quantity=report.quantity,
        kind=int(report.kind),
        occurred_at=report.occurred_at,
        received_at=now,
        reason=reason,
        event_type=None if data is None else report.event_type,
        data=data,
    )


def _decide(
    connection: sa.Connection,
    reports: Sequence[UsageReport],
    verdicts: Mapping[int, Verdict],
    waiting: Mapping[Key, ParkedKeyRow],
    tenant: Tenant,
    *,
    actor: str,
    now: datetime,
) -> None:
    """Take those reports out of the parking queue that have found their place, or will not."""
    for position, report in enumerate(reports):
        known, verdict = waiting.get((report.source, report.foreign_id)), verdicts[position]
        if known is None or known.decision is not None or verdict.kind is VerdictKind.PARKED:
            continue
        if known.body_hash != report.body_hash():
            continue  # somebody else's body under this id decides nothing about the one that waits
        released = verdict.kind in {VerdictKind.ACCEPTED, VerdictKind.DUPLICATE}
        parking_store.decide(
            connection,
            DecisionRow(
                parked_id=known.id,
                tenant_id=tenant.id,
                decision="released" if released else "rejected",
                event_id=verdict.event_id if released else None,
                reason=verdict.reason or verdict.kind.value,
                actor=actor,
                decided_at=now,
            ),
        )
