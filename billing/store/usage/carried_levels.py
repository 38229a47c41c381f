"""Table usage_carried_level: what levels were when the month of their last reading left.

Decides: how a level is read from what a month left behind, when that says too little, and what it
should say by the month's archive. The database writes it, in the transaction in which the month
leaves. The last reading before the end of the month stands for all those that were in it; each
behind the end (a request may end in the next month) stays by itself, and is read here once its
event has left, too.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict
from billing.period import Period
from billing.store.database import query, run

# In the columns of the ledger's readings; the table itself, and not an archive alone, says that
# the month has left.
CARRIED = """
SELECT v.code, v.aggregation, v.percentile, v.informational, m.name AS model, k.kind,
       CAST('{}' AS integer[]) AS contract_ids, k.project_id, k.value, k.occurred_at, k.epoch,
       k.event_id AS id, width_bucket(k.occurred_at, CAST(:edges AS timestamptz[])) AS span
  FROM usage_carried_level k
  JOIN usage_horizon h ON h.archive_id = k.archive_id
  JOIN meter_version v ON v.id = k.meter_version_id
  LEFT JOIN model m ON m.id = k.model_id
 WHERE k.tenant_id = :tenant AND k.value IS NOT NULL
   AND NOT EXISTS (SELECT FROM usage_event n WHERE n.id = k.event_id)
"""
"""Readings of a tenant's levels that months left behind."""

# What stands for several readings does not tell which of them a period saw that began before the
# last, nor which one counted before a later correction.
_UNKNOWN = """
SELECT EXISTS (SELECT FROM usage_carried_level k
                 JOIN usage_horizon h ON h.archive_id = k.archive_id
                WHERE k.tenant_id = :tenant AND k.since < :end
                  AND (k.known_epoch > :watermark OR (k.value IS NOT NULL
                       AND k.occurred_at >= :start AND CAST(:start AS timestamptz) < :oldest)))
       AS unknown
"""

# The statement by which the database carries levels, over archived events instead of a partition.
_DIFFERENCES = """
WITH reading AS (
    SELECT r.*, h.archive_id, c.event_id AS taken_back_by,
           greatest(r.epoch, x.epoch, y.epoch) AS known,
           CASE WHEN r.occurred_at >= (r.month + interval '1 month') AT TIME ZONE 'UTC'
                THEN r.event_id END AS alone
      FROM pg_temp.archived_reading r
      JOIN usage_horizon h ON h.month = r.month
      LEFT JOIN usage_correction c ON c.corrects = r.event_id
      LEFT JOIN usage_event x ON x.id = c.event_id
      LEFT JOIN pg_temp.archived_reading y ON y.event_id = c.event_id
           AND y.meter_version_id = r.meter_version_id
     WHERE r.month <> ALL(CAST(:unread AS date[]))
       AND NOT EXISTS (SELECT FROM usage_correction o WHERE o.event_id = r.event_id)
), expected AS (
    SELECT DISTINCT ON (tenant_id, code, model_id, kind, project_id, month, alone)
           tenant_id, archive_id, meter_version_id, event_id, model_id, kind, project_id,
           occurred_at, epoch, CASE WHEN taken_back_by IS NULL THEN value END AS value,
           min(occurred_at) OVER same AS since, max(known) OVER same AS known_epoch
      FROM reading
    WINDOW same AS (PARTITION BY tenant_id, code, model_id, kind, project_id, month, alone)
     ORDER BY tenant_id, code, model_id, kind, project_id, month, alone,
              taken_back_by IS NOT NULL, occurred_at DESC, epoch DESC, event_id DESC
), kept AS (
    SELECT * FROM usage_carried_level k WHERE NOT EXISTS (
        SELECT FROM usage_horizon h WHERE h.archive_id = k.archive_id
           AND h.month = ANY(CAST(:unread AS date[])))
)
SELECT event_id FROM expected s
  FULL JOIN kept k USING (tenant_id, archive_id, meter_version_id, event_id)
 WHERE (s.model_id, s.kind, s.project_id, s.occurred_at, s.epoch, s.value, s.since, s.known_epoch)
       IS DISTINCT FROM
       (k.model_id, k.kind, k.project_id, k.occurred_at, k.epoch, k.value, k.since, k.known_epoch)
 ORDER BY event_id
"""


def require_known(
    connection: sa.Connection,
    *,
    tenant_id: int,
    period: Period,
    watermark: int,
    oldest: datetime,
) -> None:
    """Refuse to read levels of a period of which too little was left behind.

    Args:
        watermark: newest epoch that counts.
        oldest: the oldest instant whose events are kept.

    Raises:
        Conflict: a reading that the period needs has left the database.
    """
    (row,) = query(
        connection,
        _UNKNOWN,
        tenant=tenant_id,
        start=period.start,
        end=period.end,
        watermark=watermark,
        oldest=oldest,
    )
    if row.unknown:
        raise Conflict(
            "a level is read from single readings, and one of this period's has left the database",
            field="period",
            remedy=f"rate a period from {oldest:%Y-%m-%d} on, at the newest watermark",
        )


def stage_readings(connection: sa.Connection) -> None:
    """Make room for the readings of archived months, for the rest of the transaction."""
    run(
        connection,
        "CREATE TEMPORARY TABLE archived_reading (month date, event_id uuid, tenant_id integer, "
        "code text, meter_version_id integer, model_id integer, kind smallint, "
        "project_id integer, occurred_at timestamptz, epoch bigint, value numeric, "
        "PRIMARY KEY (event_id, meter_version_id)) ON COMMIT DROP",
    )


def keep_readings(connection: sa.Connection, month: date) -> None:
    """Remember the readings of levels among the archived events that are staged now."""
    run(
        connection,
        "INSERT INTO pg_temp.archived_reading SELECT :month, e.id, e.tenant_id, v.code, v.id, "
        "e.model_id, e.kind, e.project_id, e.occurred_at, e.epoch, q.value "
        "FROM pg_temp.usage_event e JOIN meter_set s ON s.id = e.meter_set_id "
        "CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) "
        "AS q (meter_version_id, value) JOIN meter_version v ON v.id = q.meter_version_id "
        "AND v.aggregation = 'time_weighted_sum' ON CONFLICT DO NOTHING",
        month=month,
    )


def wrong_levels(connection: sa.Connection, *, unread: Collection[date]) -> list[UUID]:
    """Readings that were carried and should not be, or the other way round, or say otherwise.

    Args:
        unread: months whose archives cannot be read.
    """
    rows = query(connection, _DIFFERENCES, unread=list(unread))
    return [row.event_id for row in rows]
