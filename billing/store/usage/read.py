"""Reads of the usage ledger: quantities of a period at a watermark, usage of a tenant, requests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.period import Period
from billing.store.database import query
from billing.store.usage.aggregates import QuantityRow, Scope, aggregated_quantities
from billing.store.usage.append import SHARD
from billing.store.usage.raw_counts import unpack_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One usage event as its tenant sees it.

    Attributes:
        quantities: by meter code, zeros left out.
        raw: the engine's own figures by path.
        run_id, step_id, agent_id: the agent's run and step that it was part of, and the agent,
            in the words of the tenant; '' for none.
    """

    id: UUID
    occurred_at: datetime
    model: str | None
    kind: int
    cause: int
    estimated: bool
    quantities: dict[str, Decimal]
    raw: dict[str, int]
    duration_us: int
    run_id: str = ""
    step_id: str = ""
    agent_id: str = ""


# The epoch is read by the same statement as the rollups: one statement sees one snapshot, so the
# watermark covers exactly what was summed (D10).
_QUANTITIES = """
WITH head AS (SELECT epoch AS watermark FROM ledger_epoch WHERE shard = :shard), used AS (
SELECT v.code AS meter, m.name AS model, r.kind, coalesce(p.contract_ids, '{}') AS contract_ids,
       v.informational, sum(r.quantity) AS quantity, min(r.bucket) AS bucket_from
  FROM usage_rollup r
  JOIN meter_version v ON v.id = r.meter_version_id
  LEFT JOIN model m ON m.id = r.model_id
  LEFT JOIN price_version p ON p.id = r.price_version_id
 WHERE r.tenant_id = :tenant AND r.bucket >= :start AND r.bucket < :end
   AND v.additive
 GROUP BY v.code, m.name, r.kind, p.contract_ids, v.informational,
       width_bucket(r.bucket, CAST(:edges AS timestamptz[])))
SELECT head.watermark, used.* FROM head LEFT JOIN used ON true
 ORDER BY meter, model NULLS FIRST, kind, contract_ids NULLS FIRST, bucket_from
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodUsage:
    """What a tenant used in a period, and the newest epoch that is in it."""

    watermark: int
    quantities: tuple[QuantityRow, ...]


def period_usage(
    connection: sa.Connection,
    *,
    tenant_id: int,
    period: Period,
    edges: Iterable[datetime] = (),
    until: datetime | None = None,
) -> PeriodUsage:
    """What a tenant used in a period, by meter, model, kind and price version.

    Args:
        edges: instants on the grid; no quantity reaches over one.
        until: how far levels over time are counted; None is the end of the period.
    """
    ascending = sorted({period.start, *edges})
    rows = query(
        connection,
        _QUANTITIES,
        shard=SHARD,
        tenant=tenant_id,
        start=period.start,
        end=period.end,
        edges=ascending,
    )
    # What is not additive is read next. Epochs become visible in order, so events up to the
    # watermark are those that the sums contain, whatever was committed in between.
    scope = Scope(
        tenant_id=tenant_id,
        period=period,
        watermark=rows[0].watermark,
        edges=ascending,
        until=until or period.end,
    )
    sums = (
        QuantityRow(
            meter=row.meter,
            model=row.model,
            kind=row.kind,
            contract_ids=tuple(row.contract_ids),
            quantity=row.quantity,
            informational=row.informational,
            bucket_from=row.bucket_from,
        )
        for row in rows
        if row.meter is not None
    )
    return PeriodUsage(
        watermark=scope.watermark,
        quantities=(*sums, *aggregated_quantities(connection, scope)),
    )


_EVENTS = """
SELECT e.id, e.occurred_at, m.name AS model, e.kind, e.cause, e.estimated, e.duration_us,
       (SELECT array_agg(v.code ORDER BY n)
          FROM unnest(s.meter_version_ids) WITH ORDINALITY AS u (version_id, n)
          JOIN meter_version v ON v.id = u.version_id) AS codes,
       e.quantities, h.paths, e.raw_counts, e.run_id,
       coalesce(t.step_id, '') AS step_id, coalesce(t.agent_id, '') AS agent_id
  FROM usage_event e
  JOIN meter_set s ON s.id = e.meter_set_id
  LEFT JOIN model m ON m.id = e.model_id
  LEFT JOIN usage_shape h ON h.id = e.raw_shape_id
  LEFT JOIN usage_step t ON t.event_id = e.id
 WHERE e.tenant_id = :tenant
"""


def events(
    connection: sa.Connection, *, tenant_id: int, period: Period, limit: int
) -> list[EventView]:
    """A tenant's newest events of a period."""
    rows = query(
        connection,
        f"{_EVENTS} AND e.occurred_at >= :start AND e.occurred_at < :end "
        "ORDER BY e.occurred_at DESC, e.id DESC LIMIT :limit",
        tenant=tenant_id,
        start=period.start,
        end=period.end,
        limit=limit,
    )
    return [_view(row) for row in rows]


def event(connection: sa.Connection, *, tenant_id: int, event_id: UUID) -> EventView | None:
    """One event of a tenant."""
    rows = query(connection, f"{_EVENTS} AND e.id = :id", tenant=tenant_id, id=event_id)
    return _view(rows[0]) if rows else None


def scrap(connection: sa.Connection, *, period: Period) -> list[tuple[str, int, int]]:
    """Dispatched and not billed: (model, tenant id, attempts) of a period.

    Operations that bill nothing, and the failed attempts of all; of months that have left, by
    the quarter of an hour.
    """
    rows = query(
        connection,
        "SELECT m.name AS model, s.tenant_id, CAST(sum(s.attempts) AS bigint) AS attempts FROM ("
        "SELECT at, tenant_id, model_id, 1 AS attempts FROM scrap_attempt UNION ALL "
        "SELECT at, tenant_id, model_id, 1 FROM usage_attempt UNION ALL "
        "SELECT t.bucket, t.tenant_id, t.model_id, t.attempts FROM usage_archived_attempt_total t "
        "JOIN usage_horizon h ON h.archive_id = t.archive_id) s "
        "JOIN model m ON m.id = s.model_id WHERE s.at >= :start AND s.at < :end "
        "GROUP BY 1, 2 ORDER BY 1, 2",
        start=period.start,
        end=period.end,
    )
    return [(row.model, row.tenant_id, row.attempts) for row in rows]


def usage_of_all(
    connection: sa.Connection, *, period: Period
) -> list[tuple[int, str, str | None, Decimal]]:
    """(tenant id, meter, model, quantity) of everybody in a period, whatever the kind.

    Only of meters whose quantities add up.
    """
    rows = query(
        connection,
        "SELECT r.tenant_id, v.code AS meter, m.name AS model, sum(r.quantity) AS quantity "
        "FROM usage_rollup r JOIN meter_version v ON v.id = r.meter_version_id "
        "AND v.additive LEFT JOIN model m ON m.id = r.model_id "
        "WHERE r.bucket >= :start AND r.bucket < :end GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        start=period.start,
        end=period.end,
    )
    return [(row.tenant_id, row.meter, row.model, row.quantity) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapRow:
    """An attempt that used compute and bills nothing."""

    id: UUID
    at: datetime
    tenant_id: int
    model_id: int
    backend_id: int
    reason: str


def insert_scrap(connection: sa.Connection, rows: list[ScrapRow]) -> None:
    """Record attempts that bill nothing; those that are known change nothing."""
    if rows:
        connection.execute(
            sa.text(
                "INSERT INTO scrap_attempt (id, at, tenant_id, model_id, backend_id, reason) "
                "VALUES (:id, :at, :tenant_id, :model_id, :backend_id, :reason) "
                "ON CONFLICT (id) DO NOTHING"
            ),
            [asdict(row) for row in rows],
        )


def _view(row: sa.Row[Any]) -> EventView:
    named = zip(row.codes, row.quantities, strict=True)
    return EventView(
        id=row.id,
        occurred_at=row.occurred_at,
        model=row.model,
        kind=row.kind,
        cause=row.cause,
        estimated=row.estimated,
        quantities={code: quantity for code, quantity in named if quantity},
        raw=dict(zip(row.paths or (), unpack_counts(row.raw_counts), strict=True)),
        duration_us=row.duration_us,
        run_id=row.run_id,
        step_id=row.step_id,
        agent_id=row.agent_id,
    )
