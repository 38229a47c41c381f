"""Reads of the usage ledger: quantities of a period at a watermark, usage of a tenant, requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.period import Period
from billing.rating.needs import NO_NEEDS, Needs
from billing.store.database import only, query
from billing.store.usage.aggregates import QuantityRow, Scope, aggregated_quantities
from billing.store.usage.rated_events import quantities_of_events
from billing.store.usage.raw_counts import unpack_counts
from billing.store.usage.rolled import rolled_sums, spans_between


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodUsage:
    """What a tenant used in a period, and the newest epoch that is in it.

    Attributes:
        units: what a unit of each meter is called, by code of the meter.
    """

    watermark: int
    quantities: tuple[QuantityRow, ...]
    units: Mapping[str, str] = field(default_factory=dict[str, str])


def meter_units(connection: sa.Connection) -> dict[str, str]:
    """What a unit of each meter is called; versions of one meter agree on it."""
    rows = query(connection, "SELECT DISTINCT code, unit FROM meter_version")
    return {row.code: row.unit for row in rows}


def period_usage(
    connection: sa.Connection,
    *,
    tenant_id: int,
    period: Period,
    edges: Iterable[datetime] = (),
    until: datetime | None = None,
    needs: Needs | None = None,
    zone_name: str | None = None,
    from_events: int | None = None,
) -> PeriodUsage:
    """What a tenant used in a period, by meter, model, kind and price version.

    Args:
        edges: instants on the grid; no quantity reaches over one.
        until: how far levels over time are counted; None is the end of the period.
        needs: how finely which meters are read; None is by their sums.
        zone_name: the tenant's, so that whole days can be read as such; None reads quarter hours.
        from_events: a watermark up to which nothing but events is read; None is from rollups, at
            the newest one.

    Raises:
        Conflict: what is asked is in events that have left the database.
    """
    asked = needs or {}
    ascending = sorted({period.start, *edges})
    if from_events is None:
        finest = {code: each for code, each in asked.items() if each.beyond_rollups}
        rolled = rolled_sums(
            connection,
            tenant_id=tenant_id,
            spans=spans_between(ascending, period.end),
            zone_name=zone_name,
            needs=asked,
            elsewhere=finest,
        )
        watermark, sums = rolled.watermark, rolled.quantities
    else:
        codes = query(connection, "SELECT DISTINCT code FROM meter_version WHERE additive")
        finest = {row.code: asked.get(row.code, NO_NEEDS) for row in codes}
        watermark, sums = from_events, ()
    # What no sum answers is read next. Epochs become visible in order, so events up to the
    # watermark are those that the sums contain, whatever was committed in between.
    scope = Scope(
        tenant_id=tenant_id,
        period=period,
        watermark=watermark,
        edges=ascending,
        until=until or period.end,
    )
    return PeriodUsage(
        watermark=watermark,
        quantities=(
            *sums,
            *quantities_of_events(connection, scope, finest),
            *aggregated_quantities(connection, scope, asked),
        ),
        units=meter_units(connection),
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


def newest_usage_at(
    connection: sa.Connection, *, tenant_id: int, period: Period
) -> datetime | None:
    """When a tenant's newest event of a period occurred; None if it has none."""
    return only(
        connection,
        "SELECT max(occurred_at) AS at FROM usage_event WHERE tenant_id = :tenant "
        "AND occurred_at >= :start AND occurred_at < :end",
        tenant=tenant_id,
        start=period.start,
        end=period.end,
    ).at


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
