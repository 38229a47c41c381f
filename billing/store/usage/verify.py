"""Rollups beside a re-aggregation of what they sum up: raw events, and archived months' totals.

Every level is compared with the events themselves, not with the level below it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.store.database import query

_KEY = "meter_version_id, model_id, price_version_id, project_id, key_id, kind"
_RUN_KEY = "tenant_id, run_id, meter_version_id, model_id, price_version_id, kind"
NOT_ARCHIVED = (
    "e.id >= coalesce((SELECT first_event_id(max(oldest_kept)) FROM usage_horizon), "
    "first_event_id('1970-01-01Z'))"
)
"""Of events `e`: not those that stay of a month that left, whose totals count all of it."""

_DIFFERS = "(s.quantity, s.events) IS DISTINCT FROM (r.quantity, r.events)"
_DIFFERENCES = f"""
WITH facts AS MATERIALIZED (
    SELECT e.tenant_id, date_bin('15 minutes', e.occurred_at, '1970-01-01Z') AS bucket,
           q.meter_version_id, e.model_id, e.price_version_id, e.project_id, e.key_id, e.kind,
           e.run_id, sum(q.quantity) AS quantity, count(*) AS events
      FROM usage_event e JOIN meter_set m ON m.id = e.meter_set_id
     CROSS JOIN LATERAL unnest(m.meter_version_ids, e.quantities)
           AS q (meter_version_id, quantity)
     WHERE q.quantity <> 0 AND {NOT_ARCHIVED} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
     UNION ALL
    SELECT tenant_id, bucket, {_KEY}, run_id, quantity, events
      FROM usage_archived_total JOIN usage_horizon USING (archive_id)
), quarters AS (
    SELECT tenant_id, bucket, {_KEY}, sum(quantity) AS quantity, sum(events) AS events
      FROM facts GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), days AS (
    SELECT f.tenant_id, CAST(f.bucket AT TIME ZONE t.zone AS date) AS day, {_KEY},
           sum(quantity) AS quantity, sum(events) AS events
      FROM facts f JOIN tenant t ON t.id = f.tenant_id GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), runs AS (
    SELECT {_RUN_KEY}, sum(quantity) AS quantity, sum(events) AS events
      FROM facts WHERE run_id <> '' GROUP BY 1, 2, 3, 4, 5, 6
)
SELECT tenant_id, bucket, NULL AS day, NULL AS run_id, meter_version_id
  FROM quarters s FULL JOIN usage_rollup r USING (tenant_id, bucket, {_KEY}) WHERE {_DIFFERS}
 UNION ALL
SELECT tenant_id, NULL, day, NULL, meter_version_id
  FROM days s FULL JOIN usage_rollup_day r USING (tenant_id, day, {_KEY}) WHERE {_DIFFERS}
 UNION ALL
SELECT tenant_id, NULL, NULL, run_id, meter_version_id
  FROM runs s FULL JOIN usage_run_total r USING ({_RUN_KEY}) WHERE {_DIFFERS}
 ORDER BY 1, 2, 3, 4, 5
"""  # noqa: S608  # our own names


def rollup_differences(connection: sa.Connection) -> list[tuple[int, datetime | str, str]]:
    """Rollup rows that differ from what they sum up; empty when all is well.

    Returns:
        (tenant id, where, meter version): where is the start of a quarter hour, `day …` or
        `run …`.
    """
    return [
        (row.tenant_id, _where(row.bucket, row.day, row.run_id), str(row.meter_version_id))
        for row in query(connection, _DIFFERENCES)
    ]


def _where(bucket: datetime | None, day: object, run_id: str | None) -> datetime | str:
    if bucket is not None:
        return bucket
    return f"day {day}" if run_id is None else f"run {run_id}"
