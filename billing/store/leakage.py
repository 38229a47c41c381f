"""Samples of engines' counters, and the hours that were reconciled with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.metering.leakage import (
    JOURNAL_LOST_AFTER,
    REASON_OF_CAUSE,
    SHIPPED_MARGIN,
    EngineSample,
    Reconciled,
)
from billing.metering.usage_event import Cause
from billing.period import Period
from billing.store.database import first, members, only, query, run

_SAMPLE = "at, engine_epoch, prompt, generation, counts_cached"


def newest_sample(connection: sa.Connection, *, backend_id: int) -> EngineSample | None:
    """The last sample of a backend."""
    row = first(
        connection,
        f"SELECT {_SAMPLE} FROM engine_sample "  # noqa: S608  # our own names
        "WHERE backend_id = :backend ORDER BY at DESC LIMIT 1",
        backend=backend_id,
    )
    return None if row is None else _sample(row)


def insert_sample(connection: sa.Connection, sample: EngineSample, *, backend_id: int) -> None:
    """Record a sample."""
    run(
        connection,
        "INSERT INTO engine_sample (backend_id, at, engine_epoch, prompt, generation, "
        "counts_cached) VALUES (:backend_id, :at, :engine_epoch, :prompt, :generation, "
        ":counts_cached)",
        backend_id=backend_id,
        **asdict(sample),
    )


def sampled_backends(connection: sa.Connection, *, period: Period) -> list[tuple[int, str]]:
    """(row id, name) of the backends that have a sample in a period."""
    rows = query(
        connection,
        "SELECT id, name FROM backend b WHERE EXISTS (SELECT FROM engine_sample s "
        "WHERE s.backend_id = b.id AND s.at >= :start AND s.at < :end) ORDER BY name",
        start=period.start,
        end=period.end,
    )
    return [(row.id, row.name) for row in rows]


def samples_around(
    connection: sa.Connection, *, backend_id: int, period: Period
) -> list[EngineSample]:
    """A backend's samples of a period, with the next one before it and after it."""
    rows = query(
        connection,
        f"(SELECT {_SAMPLE} FROM engine_sample WHERE backend_id = :backend "  # noqa: S608
        "AND at < :start ORDER BY at DESC LIMIT 1) UNION ALL "
        f"(SELECT {_SAMPLE} FROM engine_sample WHERE backend_id = :backend "
        "AND at >= :start AND at < :end) UNION ALL "
        f"(SELECT {_SAMPLE} FROM engine_sample WHERE backend_id = :backend "
        "AND at >= :end ORDER BY at LIMIT 1) ORDER BY at",
        backend=backend_id,
        start=period.start,
        end=period.end,
    )
    return [_sample(row) for row in rows]


def forget_samples(connection: sa.Connection, *, before: datetime) -> int:
    """Delete samples whose hours were reconciled long ago; how many."""
    return run(connection, "DELETE FROM engine_sample WHERE at < :before", before=before)


# By tenant, because that is how events are indexed by time: the ids tell when a request was
# admitted, and a long one ended hours later. What was reported or corrected no engine counted.
_LEDGER = """
SELECT e.backend_id, v.code, sum(q.quantity) AS quantity
  FROM tenant t
  JOIN usage_event e ON e.tenant_id = t.id AND e.occurred_at >= :start AND e.occurred_at < :end
  JOIN meter_set s ON s.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(s.meter_version_ids, e.quantities) AS q (version_id, quantity)
  JOIN meter_version v ON v.id = q.version_id
 WHERE e.backend_id = ANY(:backends) AND e.cause <> ALL(:strange) AND v.code = ANY(:meters)
 GROUP BY 1, 2
"""


def booked_tokens(
    connection: sa.Connection, *, backend_ids: list[int], meters: list[str], period: Period
) -> Mapping[tuple[int, str], Decimal]:
    """What the proxy booked in a period, by (backend row id, meter); zeros are left out."""
    rows = query(
        connection,
        _LEDGER,
        backends=backend_ids,
        meters=meters,
        strange=[int(Cause.REPORTED), int(Cause.CORRECTED)],
        start=period.start,
        end=period.end,
    )
    return {(row.backend_id, row.code): row.quantity for row in rows}


_SCRAP = """
SELECT backend_id, reason, count(*) AS requests
  FROM (SELECT at, backend_id, reason FROM scrap_attempt
         UNION ALL SELECT at, backend_id, reason FROM usage_attempt) s
 WHERE backend_id = ANY(:backends) AND at >= :start AND at < :end
 GROUP BY 1, 2
"""

_CUT = """
SELECT e.backend_id, e.cause, count(*) AS requests
  FROM tenant t
  JOIN usage_event e ON e.tenant_id = t.id AND e.occurred_at >= :start AND e.occurred_at < :end
 WHERE e.backend_id = ANY(:backends) AND e.cause = ANY(:causes)
 GROUP BY 1, 2
"""


def scrap_attempts(
    connection: sa.Connection, *, backend_ids: list[int], period: Period
) -> Mapping[int, Mapping[str, int]]:
    """Dispatches of a period that bill nothing, by backend row id and reason."""
    rows = query(connection, _SCRAP, backends=backend_ids, start=period.start, end=period.end)
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row.backend_id, {})[row.reason] = row.requests
    return found


def cut_events(
    connection: sa.Connection, *, backend_ids: list[int], period: Period
) -> Mapping[int, Mapping[str, int]]:
    """Events of a period that did not run to their end, by backend row id and reason."""
    rows = query(
        connection,
        _CUT,
        backends=backend_ids,
        causes=[int(cause) for cause in REASON_OF_CAUSE],
        start=period.start,
        end=period.end,
    )
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row.backend_id, {})[REASON_OF_CAUSE[Cause(row.cause)]] = row.requests
    return found


def journals_behind(connection: sa.Connection, *, period: Period) -> int:
    """Journals that are not shipped past the end of a period, as far as they are known."""
    return only(
        connection,
        "SELECT count(*) AS journals FROM journal_cursor WHERE NOT finished "
        "AND coalesce(shipped_through, updated_at) >= :lost "
        "AND coalesce(shipped_through, updated_at) < :needed",
        lost=period.start - JOURNAL_LOST_AFTER,
        needed=period.end + SHIPPED_MARGIN,
    ).journals


def hours_behind(connection: sa.Connection, *, limit: int) -> list[datetime]:
    """Hours that waited for a journal when they were last worked out, newest first."""
    rows = query(
        connection,
        "SELECT DISTINCT hour FROM leakage WHERE journals_behind > 0 ORDER BY hour DESC "
        "LIMIT :limit",
        limit=limit,
    )
    return [row.hour for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageRow:
    """A reconciled hour of a backend, as it is stored."""

    backend_id: int
    reconciled: Reconciled
    reconciled_at: datetime


_COUNTS = (
    "engine_prompt, engine_generation, ledger_prompt, ledger_generation, scrap_attempts, reasons, "
    "restarts, journals_behind, complete"
)


def write_leakage(connection: sa.Connection, row: LeakageRow) -> None:
    """Put what an hour came to in the place of what it seemed to come to before."""
    columns = [*_COUNTS.split(", "), "reconciled_at"]
    values = asdict(row.reconciled) | {"reasons": json.dumps(dict(row.reconciled.reasons))}
    del values["backend"]
    run(
        connection,
        f"INSERT INTO leakage (backend_id, hour, {', '.join(columns)}) "  # noqa: S608
        f"VALUES (:backend_id, :hour, {', '.join(f':{name}' for name in columns)}) "
        "ON CONFLICT (backend_id, hour) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in columns),
        backend_id=row.backend_id,
        reconciled_at=row.reconciled_at,
        **values,
    )


def read_leakage(
    connection: sa.Connection, *, period: Period, limit: int | None = None
) -> list[Reconciled]:
    """Reconciled hours that begin in a period, in the order of time and name.

    Args:
        limit: at most so many, the newest ones.
    """
    rows = query(
        connection,
        f"SELECT b.name AS backend, hour, {_COUNTS} FROM leakage l "  # noqa: S608
        "JOIN backend b ON b.id = l.backend_id "
        "WHERE hour >= :start AND hour < :end ORDER BY hour DESC, b.name DESC LIMIT :limit",
        start=period.start,
        end=period.end,
        limit=limit,
    )
    return [Reconciled(**members(row)) for row in reversed(rows)]


def newest_complete(connection: sa.Connection, *, since: datetime) -> list[Reconciled]:
    """The newest complete hour of each backend that has one since an instant."""
    rows = query(
        connection,
        f"SELECT DISTINCT ON (b.name) b.name AS backend, hour, {_COUNTS} FROM leakage l "  # noqa: S608
        "JOIN backend b ON b.id = l.backend_id WHERE complete AND hour >= :since "
        "ORDER BY b.name, hour DESC",
        since=since,
    )
    return [Reconciled(**members(row)) for row in rows]


def _sample(row: sa.Row[Any]) -> EngineSample:
    return EngineSample(**members(row))
