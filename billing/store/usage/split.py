"""Usage of a tenant split by a dimension, under the edges that its meter declares now.

Decides, per meter, from what: from the rollups, if every version that counted in the period
declared the dimension as it is declared now; else from the events, whose properties were kept as
they came. New edges so hold for the past, too, and what was read is said with every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from typing import Any

import sqlalchemy as sa

from billing.errors import Conflict
from billing.period import Period
from billing.store.database import query
from billing.store.retention import horizon
from billing.store.usage.levels import Level, Question, UsageRow, answer, used_in


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """One meter that declares a dimension.

    Attributes:
        versions: row ids of the versions that count in the period.
        path, edges: what the newest version that declares the dimension says.
        recorded: the rollups of the period were made with exactly these.
    """

    versions: tuple[int, ...]
    path: str
    edges: tuple[str, ...]
    recorded: bool


_DECLARED = """
SELECT v.code, v.id, v.effective_from, d.path, d.edges
  FROM meter_version v
  LEFT JOIN meter_dimension d ON d.meter_version_id = v.id AND d.name = :dimension
 WHERE v.additive AND v.code IN (
       SELECT w.code FROM meter_version w JOIN meter_dimension n ON n.meter_version_id = w.id
        WHERE n.name = :dimension)
 ORDER BY v.code, v.version
"""

_RAW = """
WITH asked AS MATERIALIZED (
    SELECT a.version_id, a.path, ARRAY(SELECT jsonb_array_elements_text(a.edges)) AS edges
      FROM unnest(CAST(:versions AS integer[]), CAST(:paths AS text[]), CAST(:edges AS jsonb[]))
           AS a (version_id, path, edges)
)
SELECT {slot} AS slot,
       dimension_value(c.texts[array_position(h.paths, a.path)], a.edges) AS value,
       q.meter_version_id, e.model_id, e.project_id, e.key_id, q.quantity, 1 AS events
  FROM usage_event e JOIN meter_set s ON s.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) AS q (meter_version_id, quantity)
  JOIN asked a ON a.version_id = q.meter_version_id
  LEFT JOIN usage_property c ON c.event_id = e.id
  LEFT JOIN usage_shape h ON h.id = c.shape_id
 WHERE e.tenant_id = :tenant AND e.occurred_at >= :start AND e.occurred_at < :end
   AND q.quantity <> 0
"""
_RECORDED = "AND dimension = :dimension AND meter_version_id = ANY(CAST(:versions AS integer[]))"
_DAY = "CAST(e.occurred_at AT TIME ZONE :zone AS date)"
_BUCKET = "date_bin('15 minutes', e.occurred_at, '1970-01-01Z')"


def declares(connection: sa.Connection, dimension: str) -> bool:
    """Whether some meter whose quantities add up declares a dimension of this name."""
    return bool(query(connection, _DECLARED, dimension=dimension))


def usage_by_dimension(
    connection: sa.Connection, question: Question, dimension: str
) -> list[UsageRow]:
    """A tenant's usage of every meter that declares a dimension, split by its values.

    Raises:
        Conflict: edges changed since, and events of the period have left the database.
    """
    splits = _splits(query(connection, _DECLARED, dimension=dimension), question.period)
    rows = [
        *_recorded(connection, question, [each for each in splits if each.recorded], dimension),
        *_raw(connection, question, [each for each in splits if not each.recorded]),
    ]
    return sorted(rows, key=_place)


def _splits(declared: Iterable[sa.Row[Any]], period: Period) -> list[_Split]:
    splits: list[_Split] = []
    for _, same in groupby(declared, key=lambda row: row.code):
        versions = list(same)
        now = next(row for row in reversed(versions) if row.path is not None)
        counting = list(_counting(versions, period))
        splits.append(
            _Split(
                versions=tuple(row.id for row in counting),
                path=now.path,
                edges=tuple(now.edges),
                recorded=all((row.path, row.edges) == (now.path, now.edges) for row in counting),
            )
        )
    return splits


def _counting(versions: Sequence[sa.Row[Any]], period: Period) -> Iterable[sa.Row[Any]]:
    """The versions of one meter that are in force somewhere in a period."""
    for row, following in pairwise((*versions, None)):
        assert row is not None, "only the last one is followed by none"
        ends: datetime = period.end if following is None else following.effective_from
        if row.effective_from < period.end and ends > period.start:
            yield row


def _recorded(
    connection: sa.Connection, question: Question, splits: Sequence[_Split], dimension: str
) -> list[UsageRow]:
    if not splits:
        return []
    used = used_in(question, table="usage_dimension_rollup", value="value", only=_RECORDED)
    versions = [version for each in splits for version in each.versions]
    also = {"dimension": dimension, "versions": versions}
    return answer(connection, question, used, level=Level.ROLLUP, also=also)


def _raw(connection: sa.Connection, question: Question, splits: Sequence[_Split]) -> list[UsageRow]:
    asked = [(version, each) for each in splits for version in each.versions]
    if not asked:
        return []
    oldest = horizon(connection)
    if oldest is not None and question.period.start < oldest:
        raise Conflict(
            "edges changed since, and events of this period have left the database",
            field="from",
            remedy=f"ask for a period from {oldest:%Y-%m-%d} on",
        )
    also = {
        "versions": [version for version, _ in asked],
        "paths": [each.path for _, each in asked],
        "edges": [json.dumps(each.edges) for _, each in asked],
    }
    used = _RAW.format(slot=_DAY if question.by_days else _BUCKET)
    return answer(connection, question, used, level=Level.RAW, also=also)


def _place(row: UsageRow) -> tuple[Any, ...]:
    return (row.start, row.meter, row.model or "", row.project or "", row.key or "", row.value)
