"""What a batch adds to the rollups: quarter hours, days of the tenant's zone, totals of runs.

All levels in one statement, in the transaction of the events. A bucket of 15 minutes lies within
one day of every zone (D8), so the day level needs nothing but the sums of the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from billing.store.database import query
from billing.store.usage.staged_rows import Sum

_KEY = "meter_version_id, model_id, price_version_id, project_id, key_id, kind"
_RUN_KEY = "tenant_id, run_id, meter_version_id, model_id, price_version_id, kind"
_ADDED = (
    "DO UPDATE SET quantity = r.quantity + excluded.quantity, "
    "events = r.events + excluded.events, epoch = excluded.epoch"
)
# Sums become rows in the order of the key: opposite orders would deadlock.
_ADD = f"""
WITH added AS MATERIALIZED (
    SELECT g.tenant_id, CAST('1970-01-01Z' AS timestamptz) + g.quarter * interval '15 minutes'
           AS bucket, m.meter_version_ids[g.position] AS meter_version_id, g.model_id,
           g.price_version_id, g.project_id, g.key_id, g.kind, g.run_id, g.quantity, g.events
      FROM unnest(CAST(:tenant_id AS integer[]), CAST(:quarter AS integer[]),
                  CAST(:model_id AS integer[]), CAST(:price_version_id AS integer[]),
                  CAST(:project_id AS integer[]), CAST(:key_id AS integer[]),
                  CAST(:kind AS smallint[]), CAST(:meter_set_id AS integer[]),
                  CAST(:run_id AS text[]), CAST(:position AS integer[]),
                  CAST(:quantity AS numeric[]), CAST(:events AS bigint[]))
           AS g (tenant_id, quarter, model_id, price_version_id, project_id, key_id, kind,
                 meter_set_id, run_id, position, quantity, events)
      JOIN meter_set m ON m.id = g.meter_set_id
), quarters AS (
    INSERT INTO usage_rollup AS r (tenant_id, bucket, {_KEY}, quantity, events, epoch)
    SELECT tenant_id, bucket, {_KEY}, sum(quantity), sum(events), :epoch
      FROM added GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (tenant_id, bucket, {_KEY}) {_ADDED}
), days AS (
    INSERT INTO usage_rollup_day AS r (tenant_id, day, {_KEY}, quantity, events, epoch)
    SELECT a.tenant_id, CAST(a.bucket AT TIME ZONE t.zone AS date), {_KEY}, sum(quantity),
           sum(events), :epoch
      FROM added a JOIN tenant t ON t.id = a.tenant_id
     GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (tenant_id, day, {_KEY}) {_ADDED}
), runs AS (
    INSERT INTO usage_run_total AS r ({_RUN_KEY}, quantity, events, epoch)
    SELECT {_RUN_KEY}, sum(quantity), sum(events), :epoch
      FROM added WHERE run_id <> '' GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT ({_RUN_KEY}) {_ADDED}
)
SELECT 1
"""  # noqa: S608  # our own names


def add_to_levels(connection: sa.Connection, sums: Sequence[Sum], *, epoch: int) -> None:
    """Add the sums of a batch to every level, under its epoch."""
    if sums:
        columns = dict(zip(Sum._fields, map(list, zip(*sums, strict=True)), strict=True))
        query(connection, _ADD, epoch=epoch, **columns)
