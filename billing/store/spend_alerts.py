"""Tables spend_threshold and spend_alert: what somebody wants to be told, and what was told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.period import Period
from billing.rating.spend import BaseKind, Threshold, ThresholdBase
from billing.store.database import members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdRow:
    """A threshold of a tenant.

    Attributes:
        made_by: `tenant` or `operator`: who may end it.
    """

    id: int
    tenant_id: int
    name: str
    terms: Threshold
    made_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRow:
    """A threshold that was reached in a billing period.

    Attributes:
        reached: the amount at which it was.
        spent: what was spent by then, at the watermark.
        fired_at: when that was seen.
    """

    name: str
    period: Period
    currency: str
    reached: Decimal
    spent: Decimal
    watermark: int
    fired_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAlert:
    """An alert to record."""

    threshold_id: int
    tenant_id: int
    alert: AlertRow


_THRESHOLD = (
    "SELECT id, tenant_id, name, amount, percent, base_kind, base_name, made_by, created_at "
    "FROM spend_threshold WHERE ended_at IS NULL"
)


def thresholds(connection: sa.Connection, tenant_ids: Sequence[int]) -> list[ThresholdRow]:
    """What tenants' spend is watched for, by tenant and name."""
    rows = query(
        connection,
        f"{_THRESHOLD} AND tenant_id = ANY(CAST(:tenants AS integer[])) ORDER BY tenant_id, name",
        tenants=list(tenant_ids),
    )
    return [_row(row) for row in rows]


def insert_threshold(
    connection: sa.Connection,
    *,
    tenant_id: int,
    name: str,
    terms: Threshold,
    made_by: str,
    now: datetime,
) -> bool:
    """Add a threshold; False if the tenant has one of this name."""
    base = terms.base
    return bool(
        run(
            connection,
            "INSERT INTO spend_threshold (tenant_id, name, amount, percent, base_kind, base_name, "
            "made_by, created_at) VALUES (:tenant, :name, :amount, :percent, :kind, :base, :by, "
            ":now) ON CONFLICT (tenant_id, name) WHERE ended_at IS NULL DO NOTHING",
            tenant=tenant_id,
            name=name,
            amount=terms.amount,
            percent=terms.percent,
            kind=base.kind.value if base else None,
            base=base.name if base else None,
            by=made_by,
            now=now,
        )
    )


def end_threshold(connection: sa.Connection, threshold_id: int, *, now: datetime) -> None:
    """Let a threshold fire no more; what it told is kept."""
    run(
        connection,
        "UPDATE spend_threshold SET ended_at = :now WHERE id = :id AND ended_at IS NULL",
        id=threshold_id,
        now=now,
    )


def insert_alerts(connection: sa.Connection, alerts: Iterable[NewAlert]) -> list[NewAlert]:
    """Record alerts; those that their billing period did not have yet."""
    rows = sorted(alerts, key=lambda row: (row.threshold_id, row.alert.period.start))
    if not rows:
        return []
    added = query(
        connection,
        "INSERT INTO spend_alert (threshold_id, period_start, period_end, tenant_id, currency, "
        "reached, spent, watermark, fired_at) SELECT * FROM unnest("
        "CAST(:thresholds AS integer[]), CAST(:starts AS timestamptz[]), "
        "CAST(:ends AS timestamptz[]), CAST(:tenants AS integer[]), CAST(:currencies AS text[]), "
        "CAST(:reached AS numeric[]), CAST(:spent AS numeric[]), CAST(:watermarks AS bigint[]), "
        "CAST(:fired AS timestamptz[])) "
        "ON CONFLICT (threshold_id, period_start) DO NOTHING RETURNING threshold_id, period_start",
        thresholds=[row.threshold_id for row in rows],
        starts=[row.alert.period.start for row in rows],
        ends=[row.alert.period.end for row in rows],
        tenants=[row.tenant_id for row in rows],
        currencies=[row.alert.currency for row in rows],
        reached=[row.alert.reached for row in rows],
        spent=[row.alert.spent for row in rows],
        watermarks=[row.alert.watermark for row in rows],
        fired=[row.alert.fired_at for row in rows],
    )
    new = {(row.threshold_id, row.period_start) for row in added}
    return [row for row in rows if (row.threshold_id, row.alert.period.start) in new]


def alerts(
    connection: sa.Connection,
    *,
    tenant_id: int | None,
    period_start: datetime | None = None,
    most: int,
) -> list[AlertRow]:
    """Alerts of one tenant, or of everybody if None, newest first."""
    rows = query(
        connection,
        "SELECT t.name, a.period_start, a.period_end, a.currency, a.reached, a.spent, "
        "a.watermark, a.fired_at FROM spend_alert a JOIN spend_threshold t ON t.id = a.threshold_id"
        " WHERE (CAST(:tenant AS integer) IS NULL OR a.tenant_id = :tenant) "
        "AND (CAST(:start AS timestamptz) IS NULL OR a.period_start = :start) "
        "ORDER BY a.fired_at DESC, a.threshold_id DESC LIMIT :most",
        tenant=tenant_id,
        start=period_start,
        most=most,
    )
    return [
        AlertRow(
            name=row.name,
            period=Period(start=row.period_start, end=row.period_end),
            currency=row.currency,
            reached=row.reached,
            spent=row.spent,
            watermark=row.watermark,
            fired_at=row.fired_at,
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyLimit:
    """A limit on money that a percentage may be of."""

    tenant_id: int
    name: str
    currency: str
    capacity: Decimal


def money_limits(connection: sa.Connection, tenant_ids: Sequence[int]) -> list[MoneyLimit]:
    """Tenants' limits on money that have not ended."""
    rows = query(
        connection,
        "SELECT tenant_id, name, currency, capacity FROM spend_limit "
        "WHERE tenant_id = ANY(CAST(:tenants AS integer[])) AND unit = 'money' "
        "AND capacity IS NOT NULL AND ended_at IS NULL",
        tenants=list(tenant_ids),
    )
    return [MoneyLimit(**members(row)) for row in rows]


def _row(row: sa.Row[Any]) -> ThresholdRow:
    base = (
        None
        if row.base_kind is None
        else ThresholdBase(kind=BaseKind(row.base_kind), name=row.base_name)
    )
    return ThresholdRow(
        id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        terms=Threshold(amount=row.amount, percent=row.percent, base=base),
        made_by=row.made_by,
        created_at=row.created_at,
    )
