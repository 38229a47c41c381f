"""Take reported usage events into the ledger: one verdict per event, each event at most once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput
from billing.metering.usage_event import (
    FUTURE_TOLERANCE,
    Cause,
    UsageReport,
    Verdict,
    VerdictKind,
)
from billing.operations.catalog.contracts import price_version_at
from billing.operations.minting import mint_id
from billing.store import catalog
from billing.store import tenancy as tenancy_store
from billing.store.usage import append as usage_store
from billing.store.usage.append import EventRow
from billing.store.usage.parked import ParkedRow, park
from billing.tenancy.tenant import DEFAULT_PROJECT, Tenant

BATCH_MAX = 10_000
"""Most events of one call: one transaction, one epoch."""


def ingest_usage(
    connection: sa.Connection, reports: Sequence[UsageReport], *, tenant: Tenant, now: datetime
) -> list[Verdict]:
    """Append reported events of one tenant, in the ingest role's transaction.

    Returns:
        One verdict per report, in order: accepted; duplicate, with the id of the first one;
        conflicting, if the id was used for another body; parked, if nothing can count it yet;
        rejected, with a reason. Everything or nothing of the batch is committed by the caller.

    Raises:
        InvalidInput: more than `BATCH_MAX` events.
    """
    if len(reports) > BATCH_MAX:
        raise InvalidInput("too many events", field="events", remedy=f"send at most {BATCH_MAX}")
    verdicts: dict[int, Verdict] = {}
    staged: list[tuple[int, EventRow]] = []
    terms = _Terms(connection, reports, tenant)
    for position, report in enumerate(reports):
        refused = terms.refusal(report, now=now)
        if refused is None:
            staged.append((position, terms.event(report, now=now)))
            continue
        verdicts[position] = refused
        if refused.kind is VerdictKind.PARKED:
            _park(connection, report, refused, tenant, now=now)
    if staged:
        appended = usage_store.append(connection, [event for _, event in staged])
        for ordinal, (position, event) in enumerate(staged):
            verdicts[position] = _verdict(event, appended.known.get(ordinal))
    return [verdicts[position] for position in range(len(reports))]


class _Terms:
    """What a batch needs from the catalog, read once."""

    def __init__(
        self, connection: sa.Connection, reports: Sequence[UsageReport], tenant: Tenant
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._meters = catalog.meters(connection)
        self._projects = tenancy_store.projects(connection, tenant.id)
        self._contracts = catalog.contracts(connection, tenant_id=tenant.id)
        self._models = catalog.ensure_models(
            connection, (report.model for report in reports if report.model)
        )
        self._price_versions: dict[frozenset[int], int] = {}
        self._meter_sets: dict[int, int] = {}

    def refusal(self, report: UsageReport, *, now: datetime) -> Verdict | None:
        """Why a report cannot be appended now, or None."""
        if report.meter not in self._meters:
            return Verdict(
                kind=VerdictKind.PARKED, reason="unknown meter; it is counted once it is defined"
            )
        if report.occurred_at > now + FUTURE_TOLERANCE:
            return Verdict(kind=VerdictKind.PARKED, reason="occurred_at lies in the future")
        if (report.project or DEFAULT_PROJECT) not in self._projects:
            return Verdict(kind=VerdictKind.REJECTED, reason="no such project of this tenant")
        return None

    def event(self, report: UsageReport, *, now: datetime) -> EventRow:
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
            meter_set_id=self._meter_set(self._meters[report.meter].id),
            kind=int(report.kind),
            cause=int(Cause.REPORTED),
            estimated=False,
            quantities=(report.quantity,),
            source=report.source,
            foreign_id=report.foreign_id,
            body_hash=report.body_hash(),
        )

    def _price_version(self, instant: datetime) -> int:
        in_force = frozenset(c.id for c in self._contracts if c.in_force(instant))
        if in_force not in self._price_versions:
            self._price_versions[in_force] = price_version_at(
                self._connection, self._contracts, tenant_id=self._tenant.id, instant=instant
            )
        return self._price_versions[in_force]

    def _meter_set(self, meter_version_id: int) -> int:
        if meter_version_id not in self._meter_sets:
            self._meter_sets[meter_version_id] = usage_store.ensure_meter_set(
                self._connection, [meter_version_id]
            )
        return self._meter_sets[meter_version_id]


def _verdict(event: EventRow, known: tuple[UUID, bool] | None) -> Verdict:
    if known is None:
        return Verdict(kind=VerdictKind.ACCEPTED, event_id=event.id)
    first_id, same_body = known
    if same_body:
        return Verdict(kind=VerdictKind.DUPLICATE, event_id=first_id)
    return Verdict(
        kind=VerdictKind.CONFLICTING,
        event_id=first_id,
        reason="this id was reported before with another body",
    )


def _park(
    connection: sa.Connection,
    report: UsageReport,
    refused: Verdict,
    tenant: Tenant,
    *,
    now: datetime,
) -> None:
    park(
        connection,
        ParkedRow(
            id=mint_id(now),
            tenant_id=tenant.id,
            source=report.source,
            foreign_id=report.foreign_id,
            body_hash=report.body_hash(),
            meter=report.meter,
            model=report.model,
            project=report.project,
            quantity=report.quantity,
            kind=int(report.kind),
            occurred_at=report.occurred_at,
            received_at=now,
            reason=refused.reason or "",
        ),
    )
