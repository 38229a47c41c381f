"""Quantities that no rollup can answer: read from the events of a period, at a watermark.

Rollups keep sums. What is distinct, largest, last, a percentile or a level over time is read from
the events themselves, streamed in order from the server, so that memory does not grow with the
period. The arithmetic is `billing.metering.aggregation`'s. Events that were corrected are left
out together with what takes them back: neither a maximum nor a last value can be subtracted.

An aggregate is taken over each span between two changes of the tenant's contracts, like the
quantities of a rollup: a price never counts usage of another one's time. A level is counted per
project, and the projects are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from itertools import chain, groupby, pairwise
from typing import Any

import sqlalchemy as sa

from billing.errors import Conflict
from billing.metering.aggregation import (
    Latest,
    Maximum,
    Point,
    distinct,
    level_hours_by_span,
    nearest_rank,
    rounded_level_hours,
)
from billing.metering.meter import Aggregation
from billing.period import BUCKET, Period, bucket_of, quarter_hours
from billing.rating.levels import LevelSpan, spans_of_level
from billing.rating.needs import NO_NEEDS, Needs
from billing.store.database import query
from billing.store.retention import horizon
from billing.store.usage.carried_levels import CARRIED, require_known

ROWS_AT_ONCE = 2_000
"""Rows that a stream holds in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantityRow:
    """A quantity of one tenant in one period, over all buckets, projects and keys.

    Attributes:
        contract_ids: the contracts that were in force as far as was known; empty if none was.
        bucket_from: an instant on the grid from which on, up to the next edge, it was used.
        dimensions: values of the dimensions that were asked for, by name, ascending.
        at: the quarter hour in which it was used, where that was asked for.
        transactions: single events in their order, where they were asked for.
        levels: of a level over time, how it moved, where that was asked for.
    """

    meter: str
    model: str | None
    kind: int
    contract_ids: tuple[int, ...]
    quantity: Decimal
    informational: bool
    bucket_from: datetime
    dimensions: tuple[tuple[str, str], ...] = ()
    at: datetime | None = None
    transactions: tuple[Point, ...] = ()
    levels: tuple[LevelSpan, ...] = ()


# Ids of meter sets first: an event whose set has no such meter is not looked at any further.
_SETS = """
SELECT array_agg(s.id) AS ids FROM meter_set s
 WHERE EXISTS (SELECT FROM meter_version v
                WHERE v.id = ANY(s.meter_version_ids) AND NOT v.additive)
"""

_USED = """
SELECT EXISTS (SELECT FROM usage_rollup r
                 JOIN meter_version v ON v.id = r.meter_version_id AND NOT v.additive
                WHERE r.tenant_id = :tenant AND r.bucket >= :start AND r.bucket < :end) AS used
"""

_READ = """
SELECT v.code, v.aggregation, v.percentile, v.informational, m.name AS model, e.kind,
       coalesce(p.contract_ids, '{}') AS contract_ids, e.project_id, q.value,
       e.occurred_at, e.epoch, e.id,
       width_bucket(e.occurred_at, CAST(:edges AS timestamptz[])) AS span
  FROM usage_event e
  JOIN meter_set s ON s.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) AS q (meter_version_id, value)
  JOIN meter_version v ON v.id = q.meter_version_id
  LEFT JOIN model m ON m.id = e.model_id
  LEFT JOIN price_version p ON p.id = e.price_version_id
 WHERE e.tenant_id = :tenant AND e.meter_set_id = ANY(:sets) AND e.epoch <= :watermark
   AND v.aggregation = ANY(:aggregations)
   AND NOT EXISTS (SELECT FROM usage_correction c WHERE c.event_id = e.id)
   AND NOT EXISTS (SELECT FROM usage_correction c JOIN usage_event x ON x.id = c.event_id
                    WHERE c.corrects = e.id AND x.epoch <= :watermark)
"""

_DURING = f"{_READ} AND e.occurred_at >= :start AND e.occurred_at < :end"

_RUNS = f"""
SELECT code, aggregation, percentile, informational, model, kind, contract_ids, span, value,
       count(*) AS times, CAST(sum(count(*)) OVER same AS bigint) AS events,
       min(min(occurred_at)) OVER same AS since
  FROM ({_DURING}) AS r
 GROUP BY code, aggregation, percentile, informational, model, kind, contract_ids, span, value
WINDOW same AS (PARTITION BY code, aggregation, percentile, informational, model, kind,
                contract_ids, span)
 ORDER BY code, informational, model, kind, contract_ids, span, value
"""  # noqa: S608  # our own text

_POINTS = f"""
SELECT * FROM ({_DURING}) AS r
 ORDER BY code, informational, model, kind, contract_ids, span, occurred_at, epoch, id
"""  # noqa: S608  # our own text

# The level with which the period begins was set at some time before it, perhaps in a month that
# has left.
_LEVELS = f"""
SELECT * FROM (
    (SELECT DISTINCT ON (code, model, kind, project_id) *
       FROM ({_READ} AND e.occurred_at < :start
             UNION ALL {CARRIED} AND k.occurred_at < :start) AS b
      ORDER BY code, model, kind, project_id, occurred_at DESC, epoch DESC, id DESC)
    UNION ALL
    ({_DURING})
    UNION ALL
    ({CARRIED} AND k.occurred_at >= :start AND k.occurred_at < :end)) AS r
 ORDER BY code, model, kind, project_id, occurred_at, epoch, id
"""  # noqa: S608  # our own text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which events are meant.

    Attributes:
        watermark: newest epoch that counts.
        edges: ascending instants on the grid, the first one the start of the period; no quantity
            reaches over one.
        until: how far a level that nobody has changed since is counted.
    """

    tenant_id: int
    period: Period
    watermark: int
    edges: Sequence[datetime]
    until: datetime


def aggregated_quantities(
    connection: sa.Connection, scope: Scope, asked: Needs
) -> list[QuantityRow]:
    """The quantities of all meters that are not additive.

    Args:
        asked: whether levels over time are read by quarter hour, and with every change.

    Raises:
        Conflict: events that they are read from have left the database.
    """
    sets = query(connection, _SETS)[0].ids
    if not sets:
        return []
    _require_events(connection, scope)
    by_value = _stream(connection, _RUNS, scope, sets, (Aggregation.UNIQUE, Aggregation.PERCENTILE))
    rows = [_of_runs(same) for _, same in groupby(by_value, key=_group)]
    by_time = _stream(connection, _POINTS, scope, sets, (Aggregation.MAX, Aggregation.LATEST))
    rows += [_of_points(same) for _, same in groupby(by_time, key=_group)]
    levels = _stream(connection, _LEVELS, scope, sets, (Aggregation.TIME_WEIGHTED_SUM,))
    for _, same in groupby(levels, key=lambda row: (row.code, row.model, row.kind)):
        rows += _of_levels(same, scope, asked)
    return rows


def _require_events(connection: sa.Connection, scope: Scope) -> None:
    """Without their events these meters would read as nothing, and be credited as if unused."""
    oldest, period = horizon(connection), scope.period
    if oldest is None:
        return
    require_known(
        connection,
        tenant_id=scope.tenant_id,
        period=period,
        watermark=scope.watermark,
        oldest=oldest,
    )
    bounds = {"tenant": scope.tenant_id, "start": period.start, "end": period.end}
    if period.start < oldest and query(connection, _USED, **bounds)[0].used:
        raise Conflict(
            "a meter is read from single events, and those of this period have left the database",
            field="period",
            remedy=f"rate a period from {oldest:%Y-%m-%d} on",
        )


def _stream(
    connection: sa.Connection,
    sql: str,
    scope: Scope,
    sets: Sequence[int],
    aggregations: Iterable[Aggregation],
) -> Iterator[sa.Row[Any]]:
    found = connection.execute(
        sa.text(sql),
        {
            "tenant": scope.tenant_id,
            "start": scope.period.start,
            "end": scope.period.end,
            "watermark": scope.watermark,
            "edges": list(scope.edges),
            "sets": list(sets),
            "aggregations": [each.value for each in aggregations],
        },
        execution_options={"yield_per": ROWS_AT_ONCE},
    )
    yield from found


def _group(row: sa.Row[Any]) -> tuple[Any, ...]:
    """What all rows of one quantity share."""
    return (row.code, row.informational, row.model, row.kind, row.contract_ids, row.span)


def _of_runs(rows: Iterator[sa.Row[Any]]) -> QuantityRow:
    head = next(rows)
    runs = ((row.value, row.times) for row in chain((head,), rows))
    if head.aggregation == Aggregation.UNIQUE:
        quantity = distinct(runs)
    else:
        quantity = nearest_rank(runs, percentile=head.percentile, events=head.events)
    return _row(head, quantity, since=head.since)


def _of_points(rows: Iterator[sa.Row[Any]]) -> QuantityRow:
    head = next(rows)
    empty: Maximum | Latest = Maximum() if head.aggregation == Aggregation.MAX else Latest()
    combined = reduce(lambda state, row: state.add(point_of(row)), chain((head,), rows), empty)
    return _row(head, combined.result(), since=head.occurred_at)


def _of_levels(rows: Iterator[sa.Row[Any]], scope: Scope, asked: Needs) -> list[QuantityRow]:
    """One row per span with the hours of all projects; spans without any are left out.

    Of a level that is read with its changes none is: units that leave before a span without any
    would be there still.
    """
    head = next(rows)
    needs = asked.get(head.code, NO_NEEDS)
    by_quarter, moves = needs.quarters, needs.levels
    spans = list(_quarters(scope) if by_quarter else _spans(scope))
    totals: dict[Period, Fraction] = dict.fromkeys(spans, Fraction(0))
    levels: dict[Period, list[LevelSpan]] = {span: [] for span in spans}
    for project, series in groupby(chain((head,), rows), key=lambda row: row.project_id):
        first = next(series)
        before = first.occurred_at < scope.period.start
        initial = first.value if before else Decimal(0)
        points = (point_of(row) for row in (series if before else chain((first,), series)))
        if moves:
            points = list(points)
            for each in spans_of_level(points, spans, series=project, initial=initial):
                levels[each.span].append(each)
        for span, lasted in level_hours_by_span(points, totals, initial=initial):
            totals[span] += lasted
    return [
        # The contracts of a span are those in force at its start; events say when levels were set.
        _row(
            head,
            rounded_level_hours(lasted),
            since=span.start,
            contract_ids=(),
            at=span.start if by_quarter else None,
            levels=tuple(levels[span]),
        )
        for span, lasted in totals.items()
        if lasted or moves
    ]


def _quarters(scope: Scope) -> Iterator[Period]:
    """Every quarter hour of the period, the last one as far as it has gone."""
    end = min(scope.period.end, scope.until)
    if scope.period.start < end:
        for start in quarter_hours(Period(start=scope.period.start, end=end)):
            yield Period(start=start, end=min(start + BUCKET, end))


def _spans(scope: Scope) -> Iterator[Period]:
    end = min(scope.period.end, scope.until)
    inner = [edge for edge in scope.edges if scope.period.start < edge < end]
    if scope.period.start < end:
        for start, stop in pairwise((scope.period.start, *inner, end)):
            yield Period(start=start, end=stop)


def point_of(row: sa.Row[Any]) -> Point:
    """An event's value with its place in the total order."""
    return Point(occurred_at=row.occurred_at, epoch=row.epoch, event_id=row.id, value=row.value)


def _row(
    head: sa.Row[Any],
    quantity: Decimal,
    *,
    since: datetime,
    contract_ids: tuple[int, ...] | None = None,
    at: datetime | None = None,
    levels: tuple[LevelSpan, ...] = (),
) -> QuantityRow:
    return QuantityRow(
        meter=head.code,
        model=head.model,
        kind=head.kind,
        contract_ids=tuple(head.contract_ids) if contract_ids is None else contract_ids,
        # A period's quantity is never below zero, whatever its readings were.
        quantity=max(quantity, Decimal(0)),
        informational=head.informational,
        bucket_from=bucket_of(since),
        at=at,
        levels=levels,
    )
