"""Tables accrual_due and accrual_turn: what may have to be accrued, and how far changes were taken.

Decides: which billing periods a change touches at least, found by the epochs of rollups without
reading those that did not change. Rates nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.store.database import members, only, query, run
from billing.store.usage.append import SHARD


@dataclass(frozen=True, slots=True, kw_only=True)
class DueRow:
    """A tenant whose accruals may be behind.

    Attributes:
        touched: an instant of the billing period that may have earned something else by now.
        onwards: whether every later period up to the running one may have, too.
        due_at: no earlier than this.
        noted_at: since when it is known.
        by_clock: time alone changes what was earned then; a tenant has one such entry at most.
        attempts: how often it failed.
        problem: code of what stood in the way the last time.
    """

    tenant_id: int
    touched: datetime
    onwards: bool
    due_at: datetime
    noted_at: datetime
    by_clock: bool = False
    attempts: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RatingLag:
    """How far accruals are behind.

    Attributes:
        epochs: of usage that no turn has looked at.
        taken_at: when changes were last taken.
        waiting: tenants that are due.
        oldest_due_at: since when the longest of them waits; None: nobody does.
        problems: tenants by code of what stands in the way.
        periods, failures: since the beginning: periods in which something was posted, and turns of
            single tenants that failed.
    """

    epochs: int
    taken_at: datetime
    waiting: int
    oldest_due_at: datetime | None
    problems: dict[str, int]
    periods: int
    failures: int


# The epochs are read by the same statement as the rollups: one statement sees one snapshot (D10).
# Billing periods are longer than two weeks, so the first and the last bucket of a week lie in all
# that the week touches. A reading of zero is in no rollup, and lowers a level all the same.
_SETS = """
SELECT array_agg(s.id) AS ids FROM meter_set s
 WHERE EXISTS (SELECT FROM meter_version v
                WHERE v.id = ANY(s.meter_version_ids) AND NOT v.additive)
"""
_ZEROS = """
     UNION ALL
    SELECT tenant_id, min(occurred_at), max(occurred_at) FROM usage_event
     WHERE epoch > :after AND meter_set_id = ANY(CAST(:sets AS integer[])) AND 0 = ANY(quantities)
     GROUP BY tenant_id, date_trunc('week', occurred_at, 'UTC')
"""
_TOUCHED = """
WITH head AS (SELECT epoch FROM ledger_epoch WHERE shard = :shard),
touched AS (
    SELECT tenant_id, min(bucket) AS earliest, max(bucket) AS latest
      FROM usage_rollup WHERE epoch > :after
     GROUP BY tenant_id, date_trunc('week', bucket, 'UTC')
    {zeros}),
instants AS (
    SELECT tenant_id, earliest AS instant FROM touched UNION SELECT tenant_id, latest FROM touched),
noted AS (
    INSERT INTO accrual_due (tenant_id, touched, onwards, due_at, noted_at)
    SELECT tenant_id, instant, false, CAST(:now AS timestamptz), CAST(:now AS timestamptz)
      FROM instants ORDER BY tenant_id, instant
    RETURNING 1)
SELECT head.epoch, (SELECT count(*) FROM noted) AS noted FROM head
"""

# What was drawn on credit stops counting when accrual settles it, which needs a turn of its tenant.
# Draws of before the last turn had theirs, but for those that were written down late.
_DRAWN = """
INSERT INTO accrual_due (tenant_id, touched, onwards, due_at, noted_at)
SELECT DISTINCT tenant_id, CAST(:now AS timestamptz), false, CAST(:now AS timestamptz),
       CAST(:now AS timestamptz)
  FROM limit_draw WHERE minute >= CAST(:last AS timestamptz) - interval '10 minutes'
   AND minute < date_trunc('minute', CAST(:settled AS timestamptz), 'UTC')
"""


def take_changes(connection: sa.Connection, *, settled: datetime, now: datetime) -> int:
    """Queue the tenants whose usage changed since the last time; how many entries that made.

    Args:
        settled: draws on credit before this instant can be settled.
    """
    last = only(
        connection,
        "SELECT epoch, at FROM accrual_turn WHERE shard = :shard FOR UPDATE",
        shard=SHARD,
    )
    sets = only(connection, _SETS).ids
    # Without such meters no event is read.
    zeros, asked = (_ZEROS, {"sets": list(sets)}) if sets else ("", {})
    taken = only(
        connection,
        _TOUCHED.format(zeros=zeros),
        shard=SHARD,
        after=last.epoch,
        now=now,
        **asked,
    )
    drawn = run(connection, _DRAWN, last=last.at, settled=settled, now=now)
    run(
        connection,
        "UPDATE accrual_turn SET epoch = :epoch, at = :now WHERE shard = :shard",
        epoch=taken.epoch,
        now=now,
        shard=SHARD,
    )
    return taken.noted + drawn


def due_tenants(connection: sa.Connection, *, now: datetime, most: int) -> list[int]:
    """Tenants with something due, those who wait the longest first."""
    rows = query(
        connection,
        "SELECT tenant_id FROM (SELECT tenant_id, due_at FROM accrual_due WHERE due_at <= :now "
        "ORDER BY due_at LIMIT :rows) AS d GROUP BY tenant_id ORDER BY min(due_at) LIMIT :most",
        now=now,
        rows=8 * most,
        most=most,
    )
    return [row.tenant_id for row in rows]


def take_due(
    connection: sa.Connection, tenant_ids: Sequence[int], *, now: datetime
) -> list[DueRow]:
    """Take what is due of tenants off the queue, and what the caller will queue anew.

    That is what failed, whenever it is tried again, and what is left to the clock.
    """
    rows = query(
        connection,
        "DELETE FROM accrual_due WHERE tenant_id = ANY(CAST(:tenants AS integer[])) "
        "AND (due_at <= :now OR by_clock OR problem IS NOT NULL) "
        "RETURNING tenant_id, touched, onwards, due_at, noted_at, by_clock, attempts, problem",
        tenants=list(tenant_ids),
        now=now,
    )
    return [DueRow(**members(row)) for row in rows]


def put_due(connection: sa.Connection, rows: Iterable[DueRow]) -> None:
    """Queue entries."""
    entries = list(rows)
    if not entries:
        return
    run(
        connection,
        "INSERT INTO accrual_due (tenant_id, touched, onwards, due_at, noted_at, by_clock, "
        "attempts, problem) SELECT * FROM unnest(CAST(:tenants AS integer[]), "
        "CAST(:touched AS timestamptz[]), CAST(:onwards AS boolean[]), "
        "CAST(:due AS timestamptz[]), CAST(:noted AS timestamptz[]), "
        "CAST(:by_clock AS boolean[]), CAST(:attempts AS integer[]), CAST(:problems AS text[]))",
        tenants=[each.tenant_id for each in entries],
        touched=[each.touched for each in entries],
        onwards=[each.onwards for each in entries],
        due=[each.due_at for each in entries],
        noted=[each.noted_at for each in entries],
        by_clock=[each.by_clock for each in entries],
        attempts=[each.attempts for each in entries],
        problems=[each.problem for each in entries],
    )


def count_periods(connection: sa.Connection, periods: int) -> None:
    """Count billing periods in which something was posted."""
    if periods:
        run(
            connection,
            "UPDATE accrual_turn SET periods = periods + :periods WHERE shard = :shard",
            periods=periods,
            shard=SHARD,
        )


def count_failure(connection: sa.Connection) -> None:
    """Count a tenant whose turn failed."""
    run(
        connection,
        "UPDATE accrual_turn SET failures = failures + 1 WHERE shard = :shard",
        shard=SHARD,
    )


def rating_lag(connection: sa.Connection, *, now: datetime) -> RatingLag:
    """How far accruals are behind the ledger of usage."""
    turn = only(
        connection,
        "SELECT e.epoch - t.epoch AS epochs, t.at, t.periods, t.failures FROM accrual_turn t "
        "JOIN ledger_epoch e USING (shard) WHERE t.shard = :shard",
        shard=SHARD,
    )
    waiting = only(
        connection,
        "SELECT count(DISTINCT tenant_id) AS tenants, min(greatest(due_at, noted_at)) AS oldest "
        "FROM accrual_due WHERE due_at <= :now",
        now=now,
    )
    problems = query(
        connection,
        "SELECT problem, count(DISTINCT tenant_id) AS tenants FROM accrual_due "
        "WHERE problem IS NOT NULL GROUP BY problem ORDER BY problem",
    )
    return RatingLag(
        epochs=turn.epochs,
        taken_at=turn.at,
        waiting=waiting.tenants,
        oldest_due_at=waiting.oldest,
        problems={row.problem: row.tenants for row in problems},
        periods=turn.periods,
        failures=turn.failures,
    )


_LEVELS = """
SELECT t.id FROM unnest(CAST(:tenants AS integer[])) AS t (id)
 WHERE EXISTS (SELECT FROM usage_rollup_day r WHERE r.tenant_id = t.id
                  AND r.meter_version_id = ANY(CAST(:versions AS integer[])))
"""


def tenants_with_levels(connection: sa.Connection, tenant_ids: Sequence[int]) -> frozenset[int]:
    """Those of the tenants who use a meter whose quantity grows with time alone."""
    versions = query(
        connection, "SELECT id FROM meter_version WHERE aggregation = 'time_weighted_sum'"
    )
    if not versions:
        return frozenset()
    rows = query(
        connection,
        _LEVELS,
        tenants=list(tenant_ids),
        versions=[row.id for row in versions],
    )
    return frozenset(row.id for row in rows)
