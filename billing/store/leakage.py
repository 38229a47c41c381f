"""Samples of engines' counters, and the hours that were reconciled with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from billing.metering.leakage import EngineSample, Reconciled
from billing.metering.usage_event import Cause
from billing.period import Period
from billing.store.database import first, members, query, run

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


def scrap_attempts(
    connection: sa.Connection, *, backend_ids: list[int], period: Period
) -> Mapping[int, int]:
    """Dispatches of a period that bill nothing, by backend row id; zeros are left out."""
    rows = query(
        connection,
        "SELECT backend_id, count(*) AS attempts FROM ("
        "SELECT at, backend_id FROM scrap_attempt UNION ALL "
        "SELECT at, backend_id FROM usage_attempt) s "
        "WHERE backend_id = ANY(:backends) AND at >= :start AND at < :end GROUP BY 1",
        backends=backend_ids,
        start=period.start,
        end=period.end,
    )
    return {row.backend_id: row.attempts for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageRow:
    """A reconciled hour of a backend, as it is stored."""

    backend_id: int
    reconciled: Reconciled
    reconciled_at: datetime


_COUNTS = (
    "engine_prompt, engine_generation, ledger_prompt, ledger_generation, scrap_attempts, restarts, "
    "complete"
)


def write_leakage(connection: sa.Connection, row: LeakageRow) -> None:
    """Put what an hour came to in the place of what it seemed to come to before."""
    columns = [*_COUNTS.split(", "), "reconciled_at"]
    values = asdict(row.reconciled)
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


def read_leakage(connection: sa.Connection, *, period: Period) -> list[Reconciled]:
    """Reconciled hours that begin in a period, in the order of time and name."""
    rows = query(
        connection,
        f"SELECT b.name AS backend, hour, {_COUNTS} FROM leakage l "  # noqa: S608
        "JOIN backend b ON b.id = l.backend_id "
        "WHERE hour >= :start AND hour < :end ORDER BY hour, b.name",
        start=period.start,
        end=period.end,
    )
    return [Reconciled(**members(row)) for row in rows]


def _sample(row: sa.Row[Any]) -> EngineSample:
    return EngineSample(**members(row))
