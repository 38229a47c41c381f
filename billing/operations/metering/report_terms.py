"""On which terms a batch of reports is counted: meters, project, model and contracts in force.

Decides why a report cannot be appended, and as whose event it is if it can. What changes with time
(versions of meters, contracts) changes at few instants, so that reports between two of them share
one answer. Does not decide about ids that were reported before (`ingest_usage.py`).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from billing.metering.meter import LEVELS, Aggregation
from billing.metering.usage_event import (
    EARLIEST,
    FUTURE_TOLERANCE,
    UsageReport,
    Verdict,
    VerdictKind,
)
from billing.metering.waiting_event import written_data
from billing.operations.catalog.contracts import price_version_at
from billing.operations.metering.measure_events import WAITING
from billing.store import catalog, retention
from billing.store import tenancy as tenancy_store
from billing.store.usage import append as usage_store
from billing.store.usage import reported as reported_store
from billing.store.usage.staged_rows import EncodedOrigin, Origin, encoded_origin
from billing.tenancy.tenant import DEFAULT_PROJECT, Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeterInForce:
    """One version of a meter."""

    since: datetime
    version_id: int
    counts: bool
    reads_levels: bool


class _Counted(NamedTuple):
    """Whose events reports of one meter, model, project and kind are, for some span of time.

    Attributes:
        any_quantity: False where each report's quantity has to be looked at.
    """

    origin: EncodedOrigin
    any_quantity: bool


class Terms:
    """What a batch of one tenant needs from the catalog, read once.

    Args:
        now: when the batch was received.
    """

    def __init__(
        self,
        connection: sa.Connection,
        reports: Sequence[UsageReport],
        tenant: Tenant,
        *,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._tenant = tenant
        self._meters = {
            code: [
                _MeterInForce(
                    since=since,
                    version_id=version_id,
                    counts=aggregation == Aggregation.COUNT,
                    reads_levels=aggregation in LEVELS,
                )
                for since, version_id, aggregation in versions
            ]
            for code, versions in reported_store.meter_versions(connection).items()
        }
        self._meter_sets: dict[tuple[int, ...], int] = {}
        self._projects = tenancy_store.projects(connection, tenant.id)
        self._contracts = catalog.contracts(connection, tenant_id=tenant.id)
        self._models = catalog.ensure_models(
            connection, {report.model for report in reports if report.model}
        )
        self._price_versions: dict[frozenset[int], int] = {}
        self._oldest = max(EARLIEST, retention.horizon(connection) or EARLIEST)
        self._latest = now + FUTURE_TOLERANCE
        self._turns = self._instants_of_change()
        self._counted: dict[object, _Counted] = {}

    def origin(self, report: UsageReport) -> EncodedOrigin | Verdict:
        """As whose event a report is appended, or why it cannot be appended now."""
        key = (
            bisect(self._turns, report.occurred_at),
            report.meter,
            report.model,
            report.project,
            report.kind,
            report.further and tuple(meter for meter, _ in report.further),
        )
        counted = self._counted.get(key)
        if (
            counted is None
            or not counted.any_quantity
            or report.occurred_at > self._latest
            or report.quantity < 0
            or any(quantity < 0 for _, quantity in report.further)
        ):
            refused = self._refusal(report)
            if refused is not None:
                return refused
        if counted is None:
            counted = self._counted[key] = self._count(report)
        return counted.origin

    def _instants_of_change(self) -> list[datetime]:
        turns = {self._oldest}
        turns |= {version.since for versions in self._meters.values() for version in versions}
        for contract in self._contracts:
            turns.add(contract.valid_from)
            if contract.valid_until is not None:
                turns.add(contract.valid_until)
        return sorted(turns)

    def _refusal(self, report: UsageReport) -> Verdict | None:
        """Why a report cannot be appended now, or None."""
        if report.occurred_at < self._oldest:
            return rejected(f"occurred_at: before {self._oldest:%Y-%m}, which is closed for good")
        uncounted = self._uncounted(report)
        if uncounted is not None:
            return uncounted
        if report.occurred_at > self._latest:
            # Without its data, the parking queue keeps one meter and quantity of a report.
            if (report.further or report.properties) and not _keeps_data(report):
                return rejected("occurred_at: lies in the future; send it when it has come")
            return parked("occurred_at lies in the future")
        if (report.project or DEFAULT_PROJECT) not in self._projects:
            return rejected("project: no such project of this tenant")
        return None

    def _uncounted(self, report: UsageReport) -> Verdict | None:
        """Why its meters cannot count a report, or None."""
        if report.meter.startswith(WAITING):
            if _keeps_data(report):
                return parked("unknown type; it is counted once a meter reads such events")
            return parked(
                "unknown type, and its data is too long to be kept; "
                "send it again once a meter reads such events"
            )
        for meter, quantity in report.quantities:
            versions = self._meters.get(meter)
            if versions is None:
                return parked("unknown meter; it is counted once it is defined")
            if report.occurred_at < versions[-1].since:
                return parked("occurred_at lies before the meter took effect")
            if quantity < 0 and not versions[0].reads_levels:
                return rejected("quantity: is negative; correct the event that it takes back")
            if versions[0].counts and quantity != 1:
                return rejected("quantity: this meter counts events; report each one with 1")
        return None

    def _count(self, report: UsageReport) -> _Counted:
        return _Counted(
            encoded_origin(
                Origin(
                    tenant_id=self._tenant.id,
                    project_id=self._projects[report.project or DEFAULT_PROJECT],
                    key_id=catalog.NONE,
                    model_id=self._models[report.model] if report.model else catalog.NONE,
                    backend_id=catalog.NONE,
                    price_version_id=self._price_version(report.occurred_at),
                    meter_set_id=self._meter_set(report),
                    raw_shape_id=catalog.NONE,
                    kind=int(report.kind),
                )
            ),
            not any(self._meters[meter][0].counts for meter, _ in report.quantities),
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


def _keeps_data(report: UsageReport) -> bool:
    """Whether a report that waits can be measured again from what the parking queue keeps."""
    return report.data is not None and written_data(report.data) is not None


def parked(reason: str) -> Verdict:
    """The verdict on a report that nothing can count yet."""
    return Verdict(kind=VerdictKind.PARKED, reason=reason)


def rejected(reason: str) -> Verdict:
    """The verdict on a report that will never count."""
    return Verdict(kind=VerdictKind.REJECTED, reason=reason)
