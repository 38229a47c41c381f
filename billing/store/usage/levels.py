"""Usage of a tenant by slot of time, each question answered by the coarsest level that can.

Days and months, whole ones of the tenant's zone, come from the day level; what a period has
before its first whole day and after its last one, and all hours and buckets, from the level of 15
minutes. So a month costs thirty days' rows, however many events the ledger holds. Usage by a
dimension has the same two levels; `split.py` says when it is read from the events instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from billing.period import Period, local_midnight, zone
from billing.store.database import members, query

GROUPS = ("day", "month", "hour", "bucket", "none")


class Level(StrEnum):
    """What usage was read from: sums that were kept, or the events themselves."""

    ROLLUP = "rollup"
    RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Usage of a tenant in one slot of time; None where usage is not split by it, or has none.

    Attributes:
        key: the part of an API key that may be shown.
        value: value of the dimension that usage is split by.
    """

    start: datetime
    meter: str
    model: str | None
    project: str | None
    key: str | None
    value: str | None
    quantity: Decimal
    events: int
    level: Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a tenant's usage.

    Attributes:
        group: one of `GROUPS`; `day` and `month` are those of the tenant's zone, and `none` is
            one slot that starts with the period.
        zone_name: the tenant's zone.
        by: by which of `model`, `project` and `key` usage is split; by meter it always is.
        meters, models, projects, keys: only usage of these; an empty collection is no usage at
            all, None is all of it (T2).
    """

    tenant_id: int
    period: Period
    group: str
    zone_name: str
    by: Collection[str]
    meters: Collection[str] | None = None
    models: Collection[str] | None = None
    projects: Collection[str] | None = None
    keys: Collection[str] | None = None

    @property
    def by_days(self) -> bool:
        """Whether days are enough to answer it."""
        return self.group not in _SLOTS


# What is not additive has no sum that means anything: two readings of a level are not a level.
_ANSWER = """
WITH used AS ({used})
SELECT {slot} AS start, v.code AS meter, {model} AS model, {project} AS project, {key} AS key,
       r.value, sum(r.quantity) AS quantity, CAST(sum(r.events) AS bigint) AS events
  FROM used r JOIN meter_version v ON v.id = r.meter_version_id AND v.additive
  LEFT JOIN model m ON m.id = r.model_id
  LEFT JOIN project p ON p.id = r.project_id
  LEFT JOIN api_key k ON k.id = r.key_id
 WHERE {only}
 GROUP BY 1, 2, 3, 4, 5, 6
 ORDER BY 1, 2, 3 NULLS FIRST, 4, 5 NULLS FIRST, 6
"""
_SLOTS = {"hour": "date_trunc('hour', r.slot)", "bucket": "r.slot"}
_DAY_SLOTS = {
    "day": "r.slot",
    "month": "CAST(date_trunc('month', r.slot) AS date)",
    "none": "CAST(:first_of_all AS date)",
}
_NAMES = {"model": "m.name", "project": "p.slug", "key": "k.public"}
_FILTERS = {"meters": "v.code", "models": "m.name", "projects": "p.slug", "keys": "k.public"}

_COLUMNS = "meter_version_id, model_id, project_id, key_id, quantity, events"
_BUCKETS = """
SELECT bucket AS slot, {columns} FROM {table}
 WHERE tenant_id = :tenant AND bucket >= :start AND bucket < :end {only}
"""
_DAYS = """
SELECT day AS slot, {columns} FROM {table}_day
 WHERE tenant_id = :tenant AND day >= :first_day AND day < :end_day {only}
 UNION ALL
SELECT CAST(bucket AT TIME ZONE :zone AS date), {columns} FROM {table}
 WHERE tenant_id = :tenant AND bucket >= :start AND bucket < :whole_start {only}
 UNION ALL
SELECT CAST(bucket AT TIME ZONE :zone AS date), {columns} FROM {table}
 WHERE tenant_id = :tenant AND bucket >= :whole_end AND bucket < :end {only}
"""


def usage(connection: sa.Connection, question: Question) -> list[UsageRow]:
    """A tenant's usage by slot of time, of meters whose quantities add up, from rollups."""
    used = used_in(question, table="usage_rollup", value="CAST(NULL AS text)", only="")
    return answer(connection, question, used, level=Level.ROLLUP)


def used_in(question: Question, *, table: str, value: str, only: str) -> str:
    """A query of what a rollup holds for a question: slot, row ids, `value`, quantity, events.

    Args:
        table: of quarter hours; the one of days is called the same with `_day`.
        value: what stands for the value of a dimension.
        only: further conditions.
    """
    form = _DAYS if question.by_days else _BUCKETS
    return form.format(table=table, columns=f"{value} AS value, {_COLUMNS}", only=only)


def answer(
    connection: sa.Connection,
    question: Question,
    used: str,
    *,
    level: Level,
    also: Mapping[str, Any] | None = None,
) -> list[UsageRow]:
    """Sum up by slot and by what was asked for.

    Args:
        used: a query of slots (dates of the zone if `by_days`, else instants), row ids, values,
            quantities and events.
        also: its further parameters.
    """
    filters = {name: getattr(question, name) for name in _FILTERS}
    asked = {name: list(members) for name, members in filters.items() if members is not None}
    slots = _DAY_SLOTS if question.by_days else _SLOTS
    named = {
        name: column if name in question.by else "CAST(NULL AS text)"
        for name, column in _NAMES.items()
    }
    only = " AND ".join(f"{_FILTERS[name]} = ANY(CAST(:{name} AS text[]))" for name in asked)
    sql = _ANSWER.format(used=used, slot=slots[question.group], only=only or "true", **named)
    rows = query(connection, sql, **_bounds(question), **asked, **(also or {}))
    in_zone = zone(question.zone_name)
    return [
        UsageRow(**members(row, start=_start(question, row.start, in_zone), level=level))
        for row in rows
    ]


def _start(question: Question, slot: date | datetime, in_zone: ZoneInfo) -> datetime:
    if isinstance(slot, datetime):
        return slot
    return question.period.start if question.group == "none" else local_midnight(slot, in_zone)


def _bounds(question: Question) -> dict[str, Any]:
    period = question.period
    bounds = {"tenant": question.tenant_id, "start": period.start, "end": period.end}
    if not question.by_days:
        return bounds
    in_zone = zone(question.zone_name)
    first_day, end_day = whole_days(period, in_zone)
    whole = first_day < end_day
    return bounds | {
        "zone": question.zone_name,
        "first_day": first_day,
        "end_day": end_day,
        "whole_start": local_midnight(first_day, in_zone) if whole else period.end,
        "whole_end": local_midnight(end_day, in_zone) if whole else period.end,
        **({"first_of_all": first_day} if question.group == "none" else {}),
    }


def whole_days(period: Period, in_zone: ZoneInfo) -> tuple[date, date]:
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
