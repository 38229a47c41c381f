"""Usage of a tenant by slot of time, each question answered by the coarsest level that can.

Days and months, whole ones of the tenant's zone, come from the day level; what a period has
before its first whole day and after its last one, and all hours and buckets, from the level of 15
minutes. So a month costs thirty days' rows, however many events the ledger holds.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from billing.period import Period, local_midnight, zone
from billing.store.database import members, query
from billing.store.usage.read import UsageRow

GROUPS = ("day", "month", "hour", "bucket", "none")

# What is not additive has no sum that means anything: two readings of a level are not a level.
_NAMED = """
  JOIN meter_version v ON v.id = r.meter_version_id AND v.additive
  LEFT JOIN model m ON m.id = r.model_id LEFT JOIN project p ON p.id = r.project_id
"""
_MEASURES = (
    "v.code AS meter, m.name AS model, p.slug AS project, sum(r.quantity) AS quantity, "
    "CAST(sum(r.events) AS bigint) AS events"
)
_BUCKETS = f"""
SELECT {{slot}} AS start, {_MEASURES}
  FROM usage_rollup r {_NAMED}
 WHERE r.tenant_id = :tenant AND r.bucket >= :start AND r.bucket < :end
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3 NULLS FIRST, 4
"""  # noqa: S608  # our own text
_SLOTS = {"hour": "date_trunc('hour', r.bucket)", "bucket": "r.bucket"}

_DAYS = f"""
WITH used AS (
    SELECT day, meter_version_id, model_id, project_id, quantity, events FROM usage_rollup_day
     WHERE tenant_id = :tenant AND day >= :first_day AND day < :end_day
     UNION ALL
    SELECT CAST(bucket AT TIME ZONE :zone AS date), meter_version_id, model_id, project_id,
           quantity, events FROM usage_rollup
     WHERE tenant_id = :tenant AND bucket >= :start AND bucket < :whole_start
     UNION ALL
    SELECT CAST(bucket AT TIME ZONE :zone AS date), meter_version_id, model_id, project_id,
           quantity, events FROM usage_rollup
     WHERE tenant_id = :tenant AND bucket >= :whole_end AND bucket < :end
)
SELECT {{slot}} AS start, {_MEASURES}
  FROM used r {_NAMED}
 GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3 NULLS FIRST, 4
"""  # noqa: S608  # our own text
_DAY_SLOTS = {
    "day": "r.day",
    "month": "CAST(date_trunc('month', r.day) AS date)",
    "none": "CAST(:first_of_all AS date)",
}


def usage(
    connection: sa.Connection, *, tenant_id: int, period: Period, group: str, zone_name: str
) -> list[UsageRow]:
    """A tenant's usage by slot of time, of meters whose quantities add up.

    Args:
        group: one of `GROUPS`; `day` and `month` are those of the tenant's zone, and `none` is
            one slot that starts with the period.
        zone_name: the tenant's zone.
    """
    if group in _SLOTS:
        rows = query(
            connection,
            _BUCKETS.format(slot=_SLOTS[group]),
            tenant=tenant_id,
            start=period.start,
            end=period.end,
        )
        return [UsageRow(**members(row)) for row in rows]
    in_zone = zone(zone_name)
    first_day, end_day = _whole_days(period, in_zone)
    whole_start = local_midnight(first_day, in_zone) if first_day < end_day else period.end
    whole_end = local_midnight(end_day, in_zone) if first_day < end_day else period.end
    rows = query(
        connection,
        _DAYS.format(slot=_DAY_SLOTS[group]),
        tenant=tenant_id,
        zone=zone_name,
        start=period.start,
        end=period.end,
        first_day=first_day,
        end_day=end_day,
        whole_start=whole_start,
        whole_end=whole_end,
        **({"first_of_all": first_day} if group == "none" else {}),
    )
    return [
        UsageRow(
            **members(
                row, start=period.start if group == "none" else local_midnight(row.start, in_zone)
            )
        )
        for row in rows
    ]


def _whole_days(period: Period, in_zone: ZoneInfo) -> tuple[date, date]:
    """The first day that lies within the period, and the day behind the last one that does."""
    first_day = _day_of(period.start, in_zone)
    if local_midnight(first_day, in_zone) < period.start:
        first_day += timedelta(days=1)
    return first_day, _day_of(period.end, in_zone)


def _day_of(instant: datetime, in_zone: ZoneInfo) -> date:
    return instant.astimezone(in_zone).date()


def run_totals(
    connection: sa.Connection, *, tenant_id: int, run_id: str
) -> dict[tuple[str, str | None], Decimal]:
    """What an agent run used: quantities by (meter, model), of meters that add up."""
    rows = query(
        connection,
        "SELECT v.code AS meter, m.name AS model, sum(r.quantity) AS quantity "
        "FROM usage_run_total r JOIN meter_version v ON v.id = r.meter_version_id "
        "AND v.additive LEFT JOIN model m ON m.id = r.model_id "
        "WHERE r.tenant_id = :tenant AND r.run_id = :run GROUP BY 1, 2 ORDER BY 1, 2",
        tenant=tenant_id,
        run=run_id,
    )
    return {(row.meter, row.model): row.quantity for row in rows}
