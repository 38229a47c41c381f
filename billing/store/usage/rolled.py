"""Sums of a tenant's usage from the rollups, each meter as finely as a price asks and no finer.

Decides, per meter, which level answers: whole local days from the level of days and the ends of a
period from quarter hours; quarter hours where a price goes by the clock; the rollup by a dimension
where a price goes by its values. Versions of a meter that did not declare the dimension have the
value of events that carry none. All of it is one statement, so that it sees one snapshot.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from billing.metering.dimension import ABSENT
from billing.period import Period, local_midnight, zone
from billing.rating.needs import NO_NEEDS, MeterNeeds, Needs
from billing.store.database import query
from billing.store.usage.aggregates import QuantityRow
from billing.store.usage.append import SHARD
from billing.store.usage.levels import whole_days


@dataclass(frozen=True, slots=True, kw_only=True)
class RolledSums:
    """Sums of rollups, and the newest epoch that is in them."""

    watermark: int
    quantities: tuple[QuantityRow, ...]


# The epoch is read by the same statement as the rollups: one statement sees one snapshot, so the
# watermark covers exactly what was summed (D10).
_ROLLED = """
WITH head AS (SELECT epoch AS watermark FROM ledger_epoch WHERE shard = :shard),
spans AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]),
                         CAST(:first_days AS date[]), CAST(:end_days AS date[]),
                         CAST(:whole_starts AS timestamptz[]), CAST(:whole_ends AS timestamptz[]))
           AS s (start, stop, first_day, end_day, whole_start, whole_end)),
meters AS MATERIALIZED (
    SELECT v.id, v.code, v.informational, coalesce(a.quarters, false) AS quarters,
           d.name AS dimension
      FROM meter_version v
      LEFT JOIN unnest(CAST(:codes AS text[]), CAST(:dimensions AS text[]),
                       CAST(:quarters AS boolean[])) AS a (code, dimension, quarters)
             ON a.code = v.code
      LEFT JOIN meter_dimension d ON d.meter_version_id = v.id AND d.name = a.dimension
     WHERE v.additive AND v.code <> ALL(CAST(:elsewhere AS text[]))),
counted AS ({parts}),
used AS (
SELECT v.code AS meter, m.name AS model, c.kind, coalesce(p.contract_ids, '{{}}') AS contract_ids,
       v.informational, c.since, c.at, c.value, sum(c.quantity) AS quantity
  FROM counted c
  JOIN meters v ON v.id = c.meter_version_id
  LEFT JOIN model m ON m.id = c.model_id
  LEFT JOIN price_version p ON p.id = c.price_version_id
 GROUP BY v.code, m.name, c.kind, p.contract_ids, v.informational, c.since, c.at, c.value)
SELECT head.watermark, used.* FROM head LEFT JOIN used ON true
 ORDER BY meter, model NULLS FIRST, kind, contract_ids NULLS FIRST, since, at NULLS FIRST, value
"""
_PART = """
SELECT s.start AS since, {at} AS at, {value} AS value, r.meter_version_id, r.model_id,
       r.price_version_id, r.kind, r.quantity
  FROM spans s JOIN {table} r ON r.tenant_id = :tenant AND {during}
  JOIN meters v ON v.id = r.meter_version_id AND {of_meters}
"""
_NOWHEN = "CAST(NULL AS timestamptz)"
_BY_DAYS = "r.day >= s.first_day AND r.day < s.end_day"
# Two ranges of an index, where one condition with OR would read the whole period.
_BY_ENDS = (
    "r.bucket >= s.start AND r.bucket < s.whole_start",
    "r.bucket >= s.whole_end AND r.bucket < s.stop",
)
_BY_QUARTERS = "r.bucket >= s.start AND r.bucket < s.stop"


def rolled_sums(
    connection: sa.Connection,
    *,
    tenant_id: int,
    spans: Sequence[Period],
    zone_name: str | None,
    needs: Needs,
    elsewhere: Collection[str],
) -> RolledSums:
    """A tenant's usage of meters that add up.

    Args:
        spans: no quantity reaches over the end of one.
        zone_name: the tenant's, whose days the level of days holds; None leaves that level out.
        needs: how finely meters are read; one dimension each at most.
        elsewhere: codes of meters that are read from events.
    """
    rolled = {code: asked for code, asked in needs.items() if code not in elsewhere}
    rows = query(
        connection,
        _ROLLED.format(parts=" UNION ALL ".join(_parts(rolled, by_days=zone_name is not None))),
        shard=SHARD,
        tenant=tenant_id,
        codes=list(rolled),
        dimensions=[next(iter(asked.dimensions), None) for asked in rolled.values()],
        quarters=[asked.quarters for asked in rolled.values()],
        elsewhere=sorted(elsewhere),
        **_bounds(spans, zone_name),
    )
    return RolledSums(
        watermark=rows[0].watermark,
        quantities=tuple(
            _row(row, needs.get(row.meter, NO_NEEDS)) for row in rows if row.meter is not None
        ),
    )


def spans_between(edges: Sequence[datetime], end: datetime) -> list[Period]:
    """The spans that ascending instants, the first one the start of a period, cut it into."""
    return [
        Period(start=start, end=stop)
        for start, stop in pairwise([*(edge for edge in edges if edge < end), end])
    ]


def _parts(rolled: Needs, *, by_days: bool) -> list[str]:
    """One query for each level that some meter is read from."""
    parts: list[str] = []
    dimensions = any(asked.dimensions for asked in rolled.values())
    quarters = any(asked.quarters for asked in rolled.values())
    for table, value, condition in (
        ("usage_rollup", "CAST(NULL AS text)", "v.dimension IS NULL"),
        ("usage_dimension_rollup", "r.value", "v.dimension = r.dimension"),
    ):
        if table != "usage_rollup" and not dimensions:
            continue
        sums = f"{condition} AND NOT v.quarters"
        if by_days:
            parts.append(_part(f"{table}_day", _NOWHEN, value, _BY_DAYS, sums))
        parts += [_part(table, _NOWHEN, value, during, sums) for during in _BY_ENDS]
        if quarters:
            parts.append(_part(table, "r.bucket", value, _BY_QUARTERS, f"{condition} AND quarters"))
    return parts


def _part(table: str, at: str, value: str, during: str, of_meters: str) -> str:
    return _PART.format(table=table, at=at, value=value, during=during, of_meters=of_meters)


def _bounds(spans: Sequence[Period], zone_name: str | None) -> dict[str, list[Any]]:
    """The whole days of each span, by the tenant's clock, and where they begin and end."""
    bounds: dict[str, list[Any]] = {
        "starts": [span.start for span in spans],
        "ends": [span.end for span in spans],
        "first_days": [],
        "end_days": [],
        "whole_starts": [],
        "whole_ends": [],
    }
    for span in spans:
        first_day, end_day, start, end = _whole(span, zone_name)
        bounds["first_days"].append(first_day)
        bounds["end_days"].append(end_day)
        bounds["whole_starts"].append(start)
        bounds["whole_ends"].append(end)
    return bounds


def _whole(
    span: Period, zone_name: str | None
) -> tuple[date | None, date | None, datetime, datetime]:
    if zone_name is not None:
        in_zone = zone(zone_name)
        first_day, end_day = whole_days(span, in_zone)
        if first_day < end_day:
            return (
                first_day,
                end_day,
                local_midnight(first_day, in_zone),
                local_midnight(end_day, in_zone),
            )
    return None, None, span.end, span.end


def _row(row: sa.Row[Any], asked: MeterNeeds) -> QuantityRow:
    return QuantityRow(
        meter=row.meter,
        model=row.model,
        kind=row.kind,
        contract_ids=tuple(row.contract_ids),
        quantity=row.quantity,
        informational=row.informational,
        bucket_from=row.since,
        dimensions=tuple((name, row.value or ABSENT) for name in asked.dimensions),
        at=row.at,
    )
