"""Usage of a tenant from the events themselves, at a watermark: what no rollup holds.

Decides: how events are read where a price asks for several dimensions together, or for the value
of each transaction; and, for a verification, where every meter is read this way. Transactions that
were taken back are left out together with what takes them back: they were none. Sums take both,
as rollups do. Rows are streamed; only the values of transactions are kept until the period is
rated, since what is free depends on those before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import reduce
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from billing.errors import Conflict
from billing.metering.aggregation import Point
from billing.money import EXACT
from billing.rating.needs import MeterNeeds
from billing.store.database import query
from billing.store.retention import horizon
from billing.store.usage.aggregates import ROWS_AT_ONCE, QuantityRow, Scope, point_of

_SETS = """
SELECT array_agg(s.id) AS ids FROM meter_set s
 WHERE EXISTS (SELECT FROM meter_version v WHERE v.additive AND v.id = ANY(s.meter_version_ids)
                  AND v.code = ANY(CAST(:codes AS text[])))
"""

# A value is the one that the meter's version of the time declared, as in the rollups. What versions
# declare is looked up once, and not for every event: a month may have millions of them.
_READ = """
WITH asked AS MATERIALIZED (
    SELECT v.id, v.code, v.informational, a.quarters, s.paths, s.edges
      FROM unnest(CAST(:codes AS text[]), CAST(:names AS jsonb[]), CAST(:quarters AS boolean[]))
           AS a (code, names, quarters)
      JOIN meter_version v ON v.code = a.code AND v.additive
     CROSS JOIN LATERAL (
           SELECT array_agg(d.path ORDER BY n.position) AS paths,
                  array_agg(array_to_string(d.edges, ',') ORDER BY n.position) AS edges
             FROM jsonb_array_elements_text(a.names) WITH ORDINALITY AS n (name, position)
             LEFT JOIN meter_dimension d ON d.meter_version_id = v.id AND d.name = n.name) AS s)
SELECT a.code AS meter, a.informational, m.name AS model, e.kind,
       coalesce(p.contract_ids, '{}') AS contract_ids,
       width_bucket(e.occurred_at, CAST(:edges AS timestamptz[])) AS span,
       CASE WHEN a.quarters THEN date_bin('15 minutes', e.occurred_at, '1970-01-01Z') END AS at,
       ARRAY(SELECT dimension_value(c.texts[array_position(h.paths, d.path)],
                                    string_to_array(d.edges, ','))
               FROM unnest(a.paths, a.edges) WITH ORDINALITY AS d (path, edges, position)
              ORDER BY d.position) AS values,
       q.quantity, e.occurred_at, e.epoch, e.id
  FROM usage_event e
  JOIN meter_set s ON s.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) AS q (meter_version_id, quantity)
  JOIN asked a ON a.id = q.meter_version_id
  LEFT JOIN model m ON m.id = e.model_id
  LEFT JOIN price_version p ON p.id = e.price_version_id
  LEFT JOIN usage_property c ON c.event_id = e.id
  LEFT JOIN usage_shape h ON h.id = c.shape_id
 WHERE e.tenant_id = :tenant AND e.meter_set_id = ANY(:sets) AND e.epoch <= :watermark
   AND e.occurred_at >= :start AND e.occurred_at < :end AND q.quantity <> 0
"""
_KEY = "meter, model, kind, contract_ids, informational, span, at, values"
_SUMS = f"SELECT {_KEY}, sum(quantity) AS quantity FROM ({_READ}) AS r GROUP BY {_KEY}"  # noqa: S608  # our own text
_SINGLE = f"""
SELECT {_KEY}, quantity AS value, occurred_at, epoch, id FROM ({_READ}
   AND NOT EXISTS (SELECT FROM usage_correction c WHERE c.event_id = e.id)
   AND NOT EXISTS (SELECT FROM usage_correction c JOIN usage_event x ON x.id = c.event_id
                    WHERE c.corrects = e.id AND x.epoch <= :watermark)) AS r
 ORDER BY {_KEY}, occurred_at, epoch, id
"""  # noqa: S608  # our own text


def quantities_of_events(
    connection: sa.Connection, scope: Scope, asked: Mapping[str, MeterNeeds]
) -> list[QuantityRow]:
    """A tenant's usage of the meters named, all of which add up, from events.

    Raises:
        Conflict: events of the period have left the database.
    """
    single = {code: each for code, each in asked.items() if each.transactions}
    summed = {code: each for code, each in asked.items() if not each.transactions}
    rows = [
        _row(row, summed[row.meter], scope, quantity=row.quantity)
        for row in _stream(connection, _SUMS, scope, summed)
    ]
    for _, same in groupby(_stream(connection, _SINGLE, scope, single), key=_place):
        rows.append(_of_transactions(same, single, scope))
    return rows


def _of_transactions(
    rows: Iterator[sa.Row[Any]], asked: Mapping[str, MeterNeeds], scope: Scope
) -> QuantityRow:
    head = next(rows)
    points = (point_of(head), *(point_of(row) for row in rows))
    total = reduce(EXACT.add, (point.value for point in points))
    return _row(head, asked[head.meter], scope, quantity=total, transactions=points)


def _stream(
    connection: sa.Connection, sql: str, scope: Scope, asked: Mapping[str, MeterNeeds]
) -> Iterator[sa.Row[Any]]:
    codes = sorted(asked)
    sets = query(connection, _SETS, codes=codes)[0].ids if codes else None
    if not sets:
        return
    oldest = horizon(connection)
    if oldest is not None and scope.period.start < oldest:
        raise Conflict(
            "a price goes by single events, and those of this period have left the database",
            field="period",
            remedy=f"rate a period from {oldest:%Y-%m-%d} on",
        )
    yield from connection.execute(
        sa.text(sql),
        {
            "tenant": scope.tenant_id,
            "start": scope.period.start,
            "end": scope.period.end,
            "watermark": scope.watermark,
            "edges": list(scope.edges),
            "sets": list(sets),
            "codes": codes,
            "names": [json.dumps(asked[code].dimensions) for code in codes],
            "quarters": [asked[code].quarters for code in codes],
        },
        execution_options={"yield_per": ROWS_AT_ONCE},
    )


def _place(row: sa.Row[Any]) -> tuple[Any, ...]:
    """What all events of one quantity share."""
    return (row.meter, row.model, row.kind, row.contract_ids, row.span, row.at, row.values)


def _row(
    row: sa.Row[Any],
    asked: MeterNeeds,
    scope: Scope,
    *,
    quantity: Decimal,
    transactions: tuple[Point, ...] = (),
) -> QuantityRow:
    span: int = row.span
    return QuantityRow(
        meter=row.meter,
        model=row.model,
        kind=row.kind,
        contract_ids=tuple(row.contract_ids),
        quantity=quantity,
        informational=row.informational,
        bucket_from=scope.edges[span - 1],
        dimensions=tuple(zip(asked.dimensions, row.values, strict=True)),
        at=row.at,
        transactions=transactions,
    )
