"""Usage behind an invoice line: by quarter of an hour, and event by event, as of a watermark.

Decides: how both are read. Sums as of a watermark are the rollups less the events that came after
it, so an old invoice costs no scan of its events. Which of the rows are a line's is decided by
whoever knows its charge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict
from billing.metering.usage_event import EventKind
from billing.money import EXACT
from billing.period import Period
from billing.store.database import first, only, query
from billing.store.retention import horizon


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterScope:
    """Which usage is meant: billed usage of one meter.

    Attributes:
        watermark: newest epoch that counts.
        dimensions: names of the dimensions whose values are asked for.
    """

    tenant_id: int
    meter: str
    period: Period
    watermark: int
    dimensions: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarterRow:
    """What was used in a quarter of an hour.

    Attributes:
        at: its start.
        contract_ids: the contracts that were in force as far as was known.
        values: of the dimensions asked for, in their order.
        quantity: in units of the meter.
        events: how many events that is, corrections counted too.
    """

    at: datetime
    model: str | None
    contract_ids: tuple[int, ...]
    values: tuple[str, ...]
    quantity: Decimal
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedEvent:
    """One event with what it counts on one meter; see `QuarterRow`."""

    id: UUID
    occurred_at: datetime
    at: datetime
    model: str | None
    contract_ids: tuple[int, ...]
    values: tuple[str, ...]
    quantity: Decimal
    estimated: bool


_ROLLED = """
SELECT r.bucket AS at, m.name AS model, coalesce(p.contract_ids, '{}') AS contract_ids,
       sum(r.quantity) AS quantity, CAST(sum(r.events) AS bigint) AS events,
       max(r.epoch) AS newest
  FROM usage_rollup r
  JOIN meter_version v ON v.id = r.meter_version_id AND v.code = :meter
  LEFT JOIN model m ON m.id = r.model_id
  LEFT JOIN price_version p ON p.id = r.price_version_id
 WHERE r.tenant_id = :tenant AND r.kind = :billed AND r.bucket >= :start AND r.bucket < :end
 GROUP BY 1, 2, 3 ORDER BY 1, 2 NULLS FIRST, 3
"""

# A value is the one that the meter's version of the time declared, as in the rollups.
_EVENTS = """
SELECT e.id, e.occurred_at, e.estimated, m.name AS model,
       date_bin('15 minutes', e.occurred_at, '1970-01-01Z') AS at,
       coalesce(p.contract_ids, '{}') AS contract_ids, q.quantity,
       ARRAY(SELECT dimension_value(c.texts[array_position(h.paths, d.path)], d.edges)
               FROM unnest(CAST(:dimensions AS text[])) WITH ORDINALITY AS n (name, position)
               LEFT JOIN meter_dimension d ON d.meter_version_id = v.id AND d.name = n.name
              ORDER BY n.position) AS values
  FROM usage_event e
  JOIN meter_set s ON s.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) AS q (meter_version_id, quantity)
  JOIN meter_version v ON v.id = q.meter_version_id AND v.code = :meter
  LEFT JOIN model m ON m.id = e.model_id
  LEFT JOIN price_version p ON p.id = e.price_version_id
  LEFT JOIN usage_property c ON c.event_id = e.id
  LEFT JOIN usage_shape h ON h.id = c.shape_id
 WHERE e.tenant_id = :tenant AND e.kind = :billed AND q.quantity <> 0
   AND e.occurred_at >= :start AND e.occurred_at < :end
"""
_BY_QUARTER = """
SELECT at, model, contract_ids, values, sum(quantity) AS quantity, count(*) AS events
  FROM ({events}) AS r GROUP BY 1, 2, 3, 4 ORDER BY 1, 2 NULLS FIRST, 3, 4
"""
_UNTIL, _SINCE = "AND e.epoch <= :watermark", "AND e.epoch > :watermark"


def adds_up(connection: sa.Connection, meter: str) -> bool:
    """Whether quantities of a meter are sums of those of its events."""
    return bool(
        only(
            connection,
            "SELECT coalesce(bool_and(additive), true) AS additive FROM meter_version "
            "WHERE code = :meter",
            meter=meter,
        ).additive
    )


def rolled_up(connection: sa.Connection, scope: MeterScope) -> list[QuarterRow]:
    """Usage by quarter of an hour from the rollups, as of the watermark; dimensions unknown.

    Raises:
        Conflict: something came after the watermark, and the events have left the database.
    """
    rows = query(connection, _ROLLED, **_bounds(scope))
    later: dict[tuple[Any, ...], sa.Row[Any]] = {}
    if any(row.newest > scope.watermark for row in rows):
        _require_kept(connection, scope)
        sql = _BY_QUARTER.format(events=f"{_EVENTS} {_SINCE}")
        found = query(
            connection, sql, **_bounds(scope), watermark=scope.watermark, dimensions=list[str]()
        )
        later = {(row.at, row.model, tuple(row.contract_ids)): row for row in found}
    quarters: list[QuarterRow] = []
    for row in rows:
        came = later.get((row.at, row.model, tuple(row.contract_ids)))
        quarters.append(
            QuarterRow(
                at=row.at,
                model=row.model,
                contract_ids=tuple(row.contract_ids),
                values=(),
                quantity=EXACT.subtract(row.quantity, came.quantity) if came else row.quantity,
                events=row.events - came.events if came else row.events,
            )
        )
    return [row for row in quarters if row.events]


def counted(connection: sa.Connection, scope: MeterScope) -> list[QuarterRow]:
    """Usage by quarter of an hour from the events up to the watermark.

    Raises:
        Conflict: they have left the database.
    """
    _require_kept(connection, scope)
    sql = _BY_QUARTER.format(events=f"{_EVENTS} {_UNTIL}")
    return [
        QuarterRow(
            at=row.at,
            model=row.model,
            contract_ids=tuple(row.contract_ids),
            values=tuple(row.values),
            quantity=row.quantity,
            events=row.events,
        )
        for row in query(
            connection,
            sql,
            **_bounds(scope),
            watermark=scope.watermark,
            dimensions=list(scope.dimensions),
        )
    ]


def events_in_order(
    connection: sa.Connection,
    scope: MeterScope,
    *,
    after: tuple[datetime, UUID] | None,
    at_once: int,
) -> Iterator[CountedEvent]:
    """Events up to the watermark by time and id, from behind a place on; read `at_once` at a time.

    Raises:
        Conflict: they have left the database.
    """
    _require_kept(connection, scope)
    sql = (
        f"{_EVENTS} {_UNTIL} AND (CAST(:time AS timestamptz) IS NULL OR "
        "(e.occurred_at, e.id) > (:time, :id)) ORDER BY e.occurred_at, e.id LIMIT :limit"
    )
    while True:
        rows = query(
            connection,
            sql,
            **_bounds(scope),
            watermark=scope.watermark,
            dimensions=list(scope.dimensions),
            time=after and after[0],
            id=after and after[1],
            limit=at_once,
        )
        for row in rows:
            yield CountedEvent(
                id=row.id,
                occurred_at=row.occurred_at,
                at=row.at,
                model=row.model,
                contract_ids=tuple(row.contract_ids),
                values=tuple(row.values),
                quantity=row.quantity,
                estimated=row.estimated,
            )
        if len(rows) < at_once:
            return
        after = rows[-1].occurred_at, rows[-1].id


def place_of(
    connection: sa.Connection, event_id: UUID, *, tenant_id: int
) -> tuple[datetime, UUID] | None:
    """Where an event of a tenant stands in the order of time and id; None if there is none."""
    row = first(
        connection,
        "SELECT occurred_at, id FROM usage_event WHERE tenant_id = :tenant AND id = :id",
        tenant=tenant_id,
        id=event_id,
    )
    return None if row is None else (row.occurred_at, row.id)


def _bounds(scope: MeterScope) -> dict[str, Any]:
    return {
        "tenant": scope.tenant_id,
        "meter": scope.meter,
        "billed": int(EventKind.BILLED),
        "start": scope.period.start,
        "end": scope.period.end,
    }


def _require_kept(connection: sa.Connection, scope: MeterScope) -> None:
    oldest = horizon(connection)
    if oldest is not None and scope.period.start < oldest:
        raise Conflict(
            "events of this period have left the database",
            field="period",
            remedy="read them in the archive: `steelyard archive list` says where it is",
        )
