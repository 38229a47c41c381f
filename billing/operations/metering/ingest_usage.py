"""Take reported usage events into the ledger: one verdict per event, each event at most once.

A report that nothing can count yet is parked under its id (`parking.py` decides later). An id
means one body for ever, in the ledger and in the parking queue alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.metering.cloud_event import CloudEvent
from billing.metering.meter import Aggregation
from billing.metering.usage_event import (
    EARLIEST,
    FUTURE_TOLERANCE,
    Cause,
    UsageReport,
    Verdict,
    VerdictKind,
)
from billing.operations.catalog.contracts import price_version_at
from billing.operations.metering.measure_events import WAITING, measure_events
from billing.operations.minting import mint_id
from billing.store import catalog, retention
from billing.store import tenancy as tenancy_store
from billing.store.database import Role, acting_as
from billing.store.usage import append as usage_store
from billing.store.usage import parked as parking_store
from billing.store.usage import reported as reported_store
from billing.store.usage.append import EventRow
from billing.store.usage.parked import DecisionRow, ParkedKeyRow, ParkedRow
from billing.tenancy.tenant import DEFAULT_PROJECT, Tenant

BATCH_MAX = 10_000
"""Most events of one call: one transaction, one epoch."""

REPORTER = "reporter"
"""Who decides about a parked report by sending it again once it can be counted."""

Key = tuple[str, str]

_OTHER_BODY = "this id was reported before with another body"


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
    terms = _Terms(connection, reports, tenant)
    waiting = _parked_before(connection, reports, tenant)
    verdicts: dict[int, Verdict] = {}
    staged: list[tuple[int, EventRow]] = []
    unable: list[tuple[int, UsageReport, bytes, str]] = []
    for position, report in enumerate(reports):
        body_hash = report.body_hash()
        known = waiting.get((report.source, report.foreign_id))
        refused = _settled(known, body_hash) or terms.refusal(report, now=now)
        if refused is None:
            staged.append((position, terms.event(report, body_hash, now=now)))
        elif refused.kind is VerdictKind.PARKED:
            unable.append((position, report, body_hash, refused.reason or ""))
        else:
            verdicts[position] = refused
    if staged:
        appended = usage_store.append(connection, [event for _, event in staged])
        for ordinal, (position, event) in enumerate(staged):
            verdicts[position] = _verdict(event, appended.known.get(ordinal))
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
            verdicts[position] = _rejected(str(found))
        else:
            reports[position] = found
            positions.setdefault(slug, []).append(position)
    # Sorted, because two batches that lock rows of tenants in opposite orders would deadlock.
    for slug in sorted(positions):
        tenant, places = tenancy_store.tenant(connection, slug), positions[slug]
        if tenant is None:
            verdicts |= dict.fromkeys(places, _rejected("tenant: no such tenant"))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeterInForce:
    """One version of a meter."""

    since: datetime
    version_id: int
    counts: bool


class _Terms:
    """What a batch needs from the catalog, read once."""

    def __init__(
        self, connection: sa.Connection, reports: Sequence[UsageReport], tenant: Tenant
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._meters = {
            code: [
                _MeterInForce(
                    since=since, version_id=version_id, counts=aggregation == Aggregation.COUNT
                )
                for since, version_id, aggregation in versions
            ]
            for code, versions in reported_store.meter_versions(connection).items()
        }
        self._meter_sets: dict[tuple[int, ...], int] = {}
        self._projects = tenancy_store.projects(connection, tenant.id)
        self._contracts = catalog.contracts(connection, tenant_id=tenant.id)
        self._models = catalog.ensure_models(
            connection, (report.model for report in reports if report.model)
        )
        self._price_versions: dict[frozenset[int], int] = {}
        self._oldest = max(EARLIEST, retention.horizon(connection) or EARLIEST)

    def refusal(self, report: UsageReport, *, now: datetime) -> Verdict | None:
        """Why a report cannot be appended now, or None."""
        if report.occurred_at < self._oldest:
            return _rejected(f"occurred_at: before {self._oldest:%Y-%m}, which is closed for good")
        uncounted = self._uncounted(report)
        if uncounted is not None:
            return uncounted
        if report.occurred_at > now + FUTURE_TOLERANCE:
            if report.further:  # the parking queue keeps one meter and quantity of a report
                return _rejected("occurred_at: lies in the future; send it when it has come")
            return _parked("occurred_at lies in the future")
        if (report.project or DEFAULT_PROJECT) not in self._projects:
            return _rejected("project: no such project of this tenant")
        return None

    def _uncounted(self, report: UsageReport) -> Verdict | None:
        """Why its meters cannot count a report, or None."""
        if report.meter.startswith(WAITING):
            return _parked("unknown meter; send it again once a meter reads this type of event")
        for meter, quantity in report.quantities:
            versions = self._meters.get(meter)
            if versions is None:
                return _parked("unknown meter; it is counted once it is defined")
            if report.occurred_at < versions[-1].since:
                return _parked("occurred_at lies before the meter took effect")
            if versions[0].counts and quantity != 1:
                return _rejected("quantity: this meter counts events; report each one with 1")
        return None

    def event(self, report: UsageReport, body_hash: bytes, *, now: datetime) -> EventRow:
        """The event of a report that can be appended."""
        return EventRow(
            id=mint_id(now),
            occurred_at=report.occurred_at,
            tenant_id=self._tenant.id,
            project_id=self._projects[report.project or DEFAULT_PROJECT],
            key_id=catalog.NONE,
            model_id=self._models[report.model] if report.model else catalog.NONE,
            backend_id=catalog.NONE,
            price_version_id=self._price_version(report.occurred_at),
            meter_set_id=self._meter_set(report),
            kind=int(report.kind),
            cause=int(Cause.REPORTED),
            estimated=False,
            quantities=tuple(quantity for _, quantity in report.quantities),
            source=report.source,
            foreign_id=report.foreign_id,
            body_hash=body_hash,
        )

    def _price_version(self, instant: datetime) -> int:
        in_force = frozenset(c.id for c in self._contracts if c.in_force(instant))
        if in_force not in self._price_versions:
            self._price_versions[in_force] = price_version_at(
                self._connection, self._contracts, tenant_id=self._tenant.id, instant=instant
            )
        return self._price_versions[in_force]

    def _meter_set(self, report: UsageReport) -> int:
        """Of the versions of its meters that are in force when the event occurred."""
        version_ids = tuple(
            next(v.version_id for v in self._meters[meter] if v.since <= report.occurred_at)
            for meter, _ in report.quantities
        )
        if version_ids not in self._meter_sets:
            self._meter_sets[version_ids] = usage_store.ensure_meter_set(
                self._connection, version_ids
            )
        return self._meter_sets[version_ids]


def _parked(reason: str) -> Verdict:
    return Verdict(kind=VerdictKind.PARKED, reason=reason)


def _rejected(reason: str) -> Verdict:
    return Verdict(kind=VerdictKind.REJECTED, reason=reason)


def _parked_before(
    connection: sa.Connection, reports: Sequence[UsageReport], tenant: Tenant
) -> dict[Key, ParkedKeyRow]:
    if not parking_store.anything_parked(connection, tenant.id):
        return {}
    keys = [(report.source, report.foreign_id) for report in reports]
    return parking_store.parked_keys(connection, tenant_id=tenant.id, keys=keys)


def _settled(known: ParkedKeyRow | None, body_hash: bytes) -> Verdict | None:
    """The verdict that an id has for good because it was parked once, or None."""
    if known is None:
        return None
    if known.body_hash != body_hash:
        return Verdict(kind=VerdictKind.CONFLICTING, reason=_OTHER_BODY)
    return _rejected(known.reason) if known.decision == "rejected" else None


def _verdict(event: EventRow, known: tuple[UUID, bool] | None) -> Verdict:
    if known is None:
        return Verdict(kind=VerdictKind.ACCEPTED, event_id=event.id)
    first_id, same_body = known
    if same_body:
        return Verdict(kind=VerdictKind.DUPLICATE, event_id=first_id)
    return Verdict(kind=VerdictKind.CONFLICTING, event_id=first_id, reason=_OTHER_BODY)


def _park(
    connection: sa.Connection,
    unable: Sequence[tuple[int, UsageReport, bytes, str]],
    tenant: Tenant,
    *,
    now: datetime,
) -> dict[int, Verdict]:
    """Park what nothing can count, unless its id stands for something else already."""
    keys = [(report.source, report.foreign_id) for _, report, _, _ in unable]
    claimed = reported_store.claimed_hashes(connection, tenant_id=tenant.id, keys=keys)
    parking_store.park(
        connection,
        [
            ParkedRow(
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
            )
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
            verdicts[position] = _settled(kept[key], body_hash) or _parked(reason)
    return verdicts


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
