"""Rollups by dimension beside a re-aggregation of what they sum up; `verify.py` has the others.

Bands are drawn by the server from what events carry, and not by the code that drew them when the
rollups were written: one mistake in either shows.
"""

from __future__ import annotations

import sqlalchemy as sa

from billing.store.database import first, query
from billing.store.usage.verify import NOT_ARCHIVED

DIMENSION_KEY = (
    "dimension, value, meter_version_id, model_id, price_version_id, project_id, key_id, kind"
)

DIMENSION_FACTS = """
SELECT e.tenant_id, date_bin('15 minutes', e.occurred_at, '1970-01-01Z') AS bucket,
       d.name AS dimension,
       dimension_value(p.texts[array_position(h.paths, d.path)], d.edges) AS value,
       q.meter_version_id, e.model_id, e.price_version_id, e.project_id, e.key_id, e.kind,
       sum(q.quantity) AS quantity, count(*) AS events
  FROM usage_event e JOIN meter_set m ON m.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(m.meter_version_ids, e.quantities) AS q (meter_version_id, quantity)
  JOIN meter_dimension d ON d.meter_version_id = q.meter_version_id
  LEFT JOIN usage_property p ON p.event_id = e.id
  LEFT JOIN usage_shape h ON h.id = p.shape_id
 WHERE q.quantity <> 0 AND {where}
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
"""
"""What events add to the rollups by dimension, of events that fulfil `where`."""

_DIFFERS = "(s.quantity, s.events) IS DISTINCT FROM (r.quantity, r.events)"
_SETS = (
    "e.meter_set_id IN (SELECT s.id FROM meter_set s JOIN meter_dimension n "
    "ON n.meter_version_id = ANY(s.meter_version_ids))"
)
_ANY = """
SELECT FROM (
    (SELECT FROM meter_dimension LIMIT 1) UNION ALL
    (SELECT FROM usage_dimension_rollup LIMIT 1) UNION ALL
    (SELECT FROM usage_dimension_rollup_day LIMIT 1)
) AS declared_or_added LIMIT 1
"""
_DIFFERENCES = f"""
WITH facts AS MATERIALIZED (
    {DIMENSION_FACTS.format(where=f"{_SETS} AND {NOT_ARCHIVED}")}
     UNION ALL
    SELECT tenant_id, bucket, {DIMENSION_KEY}, quantity, events
      FROM usage_archived_dimension_total JOIN usage_horizon USING (archive_id)
), quarters AS (
    SELECT tenant_id, bucket, {DIMENSION_KEY}, sum(quantity) AS quantity, sum(events) AS events
      FROM facts GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
), days AS (
    SELECT f.tenant_id, CAST(f.bucket AT TIME ZONE t.zone AS date) AS day, {DIMENSION_KEY},
           sum(quantity) AS quantity, sum(events) AS events
      FROM facts f JOIN tenant t ON t.id = f.tenant_id GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
)
SELECT tenant_id, to_char(bucket, 'YYYY-MM-DD"T"HH24:MI"Z"') AS place, dimension, value,
       meter_version_id
  FROM quarters s FULL JOIN usage_dimension_rollup r USING (tenant_id, bucket, {DIMENSION_KEY})
 WHERE {_DIFFERS}
 UNION ALL
SELECT tenant_id, 'day ' || day, dimension, value, meter_version_id
  FROM days s FULL JOIN usage_dimension_rollup_day r USING (tenant_id, day, {DIMENSION_KEY})
 WHERE {_DIFFERS}
 ORDER BY 1, 2, 3, 4, 5
"""  # noqa: S608  # our own names


def dimension_differences(connection: sa.Connection) -> list[tuple[int, str, str]]:
    """Rows of rollups by dimension that differ from what they sum up; empty when all is well.

    Returns:
        (tenant id, where, meter version): where is the start of a quarter hour, or `day …`, and
        the value of the dimension.
    """
    if first(connection, _ANY) is None:
        return []  # nothing was added, and the ledger is large
    return [
        (row.tenant_id, f"{row.place} {row.dimension}={row.value}", str(row.meter_version_id))
        for row in query(connection, _DIFFERENCES)
    ]
