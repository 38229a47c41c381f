"""Table batch_run again: how far each batch is settled. Who submitted it, `batch_runs.py` has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing.admission.binding import Binding
from billing.metering.event_id import from_microseconds
from billing.store.batch_runs import BatchRun, BatchState
from billing.store.database import first, only, query, run


class ResultFile(StrEnum):
    """The files in which a batch's results come; a line is in one of them."""

    OUTPUT = "output"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A batch that is over, as the backend first said it.

    Attributes:
        at: when; all its events occurred then.
        outcome: `completed`, `expired`, `cancelled` or `failed`.
        files: ids of its results.
        requests, answered: lines that it was given, and those that it answered; None: unsaid.
    """

    at: datetime
    outcome: str
    files: dict[ResultFile, str]
    requests: int | None
    answered: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Lines by what became of them.

    Attributes:
        anomalies: lines that are billed by less than they should have said, or under a name that
            the backend is not configured with.
    """

    events: int = 0
    errors: int = 0
    unreadable: int = 0
    anomalies: int = 0

    @property
    def lines(self) -> int:
        """All of them."""
        return self.events + self.errors + self.unreadable


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """How far a batch is settled.

    Attributes:
        tenant: its slug.
        ended: None while the backend works on it, as far as is known.
        passed: lines of each file that are counted; they commit with their events.
        problem: what keeps it from being settled, or did not add up; None for nothing.
    """

    batch: BatchRun
    tenant: str
    state: BatchState
    ended: Ended | None
    passed: dict[ResultFile, int]
    counted: Counted
    checked_at: datetime | None
    billed_at: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTotals:
    """Batches of a backend in one state, together."""

    backend: str
    state: str
    batches: int
    problems: int
    counted: Counted

    def __add__(self, other: BatchTotals) -> BatchTotals:
        """Both together, of the same backend and state."""
        ours, theirs = self.counted, other.counted
        return BatchTotals(
            backend=self.backend,
            state=self.state,
            batches=self.batches + other.batches,
            problems=self.problems + other.problems,
            counted=Counted(
                events=ours.events + theirs.events,
                errors=ours.errors + theirs.errors,
                unreadable=ours.unreadable + theirs.unreadable,
                anomalies=ours.anomalies + theirs.anomalies,
            ),
        )


_SETTLEMENT = """
SELECT b.*, t.slug AS tenant FROM batch_run b JOIN tenant t ON t.id = b.tenant_id
"""
# A batch of a minute is asked about every ten seconds, one of a day every five minutes.
_DUE = """
SELECT backend, batch_id FROM batch_run WHERE state = 'open' AND (checked_at IS NULL
    OR checked_at + least(interval '5 min', greatest(interval '10 s',
        (CAST(:now AS timestamptz) - submitted_at) / 10)) <= :now)
 ORDER BY checked_at NULLS FIRST, submitted_at LIMIT :most
"""
_NOTE_ENDED = """
UPDATE batch_run SET completed_at = :at, outcome = :outcome, output_file_id = :output,
       error_file_id = :error, requests = :requests, answered = :answered
 WHERE backend = :backend AND batch_id = :batch_id AND completed_at IS NULL
"""
_ADD = """
UPDATE batch_run SET lines = lines + :lines, events = events + :events, errors = errors + :errors,
       unreadable = unreadable + :unreadable, anomalies = anomalies + :anomalies,
       output_passed = output_passed + :output, error_passed = error_passed + :error
 WHERE backend = :backend AND batch_id = :batch_id
"""
_CLOSE = """
UPDATE batch_run SET state = :state, problem = :problem, checked_at = :now, missing_since = NULL,
       billed_at = CASE WHEN :state = 'billed' THEN CAST(:now AS timestamptz) END
 WHERE backend = :backend AND batch_id = :batch_id
"""
_TOTALS = """
SELECT backend, state, count(*) AS batches, count(problem) AS problems,
       sum(events)::bigint AS events, sum(errors)::bigint AS errors,
       sum(unreadable)::bigint AS unreadable, sum(anomalies)::bigint AS anomalies
  FROM batch_run WHERE {which} GROUP BY backend, state ORDER BY backend, state
"""
_NOT_BILLED = _TOTALS.format(which="state <> 'billed'")
_BILLED = _TOTALS.format(
    which="state = 'billed' AND billed_at >= coalesce(CAST(:since AS timestamptz), '-infinity') "
    "AND billed_at < coalesce(CAST(:before AS timestamptz), 'infinity')"
)


def due_batches(connection: sa.Connection, *, now: datetime, most: int) -> list[tuple[str, str]]:
    """(backend, batch) of those that it is time to ask about, longest unasked first."""
    rows = query(connection, _DUE, now=now, most=most)
    return [(row.backend, row.batch_id) for row in rows]


def settlement(
    connection: sa.Connection, *, backend: str, batch_id: str, lock: bool = False
) -> Settlement | None:
    """How far a batch is settled; `lock` keeps others from going on with it meanwhile."""
    locking = " FOR UPDATE OF b" if lock else ""
    row = first(
        connection,
        f"{_SETTLEMENT} WHERE b.backend = :backend AND b.batch_id = :batch_id{locking}",
        backend=backend,
        batch_id=batch_id,
    )
    return None if row is None else _settlement(row)


def settlements(
    connection: sa.Connection, *, tenant_id: int | None, state: BatchState | None, most: int
) -> Sequence[Settlement]:
    """Batches, newest first; of one tenant or state, or of all."""
    rows = query(
        connection,
        f"{_SETTLEMENT} WHERE (CAST(:tenant AS integer) IS NULL OR b.tenant_id = :tenant) "
        "AND (CAST(:state AS text) IS NULL OR b.state = :state) "
        "ORDER BY b.submitted_at DESC, b.backend, b.batch_id LIMIT :most",
        tenant=tenant_id,
        state=state,
        most=most,
    )
    return [_settlement(row) for row in rows]


def awaits_file(connection: sa.Connection, binding: Binding) -> bool:
    """Whether a batch that is not billed yet has its results in a file, or may have.

    Until it is known which files a batch has written, it may be any that came to be known since.
    """
    row = only(
        connection,
        "SELECT EXISTS (SELECT FROM batch_run WHERE tenant_id = :tenant_id AND backend = :backend "
        "AND state = 'open' AND CASE WHEN completed_at IS NULL THEN submitted_at <= :bound_at "
        "ELSE :file_id IN (output_file_id, error_file_id) END) AS awaited",
        tenant_id=binding.tenant_id,
        backend=binding.backend,
        bound_at=from_microseconds(binding.created_at_us),
        file_id=binding.object_id,
    )
    return bool(row.awaited)


def batches_named(connection: sa.Connection, batch_id: str) -> list[str]:
    """The backends that have a batch of this id."""
    rows = query(
        connection,
        "SELECT backend FROM batch_run WHERE batch_id = :batch_id ORDER BY backend",
        batch_id=batch_id,
    )
    return [row.backend for row in rows]


def model_names(connection: sa.Connection, ids: Collection[int]) -> dict[int, str]:
    """Names of models by row id; ids of none are left out."""
    rows = query(connection, "SELECT id, name FROM model WHERE id = ANY(:ids)", ids=sorted(ids))
    return {row.id: row.name for row in rows}


def unbilled_totals(connection: sa.Connection) -> list[BatchTotals]:
    """Batches that are not billed, by backend and state."""
    return _totals(connection, _NOT_BILLED)


def billed_totals(
    connection: sa.Connection, *, since: datetime | None = None, before: datetime | None = None
) -> list[BatchTotals]:
    """Batches by backend that were billed in a span of time; None: from the first, to the last."""
    return _totals(connection, _BILLED, since=since, before=before)


def _totals(
    connection: sa.Connection, statement: str, **parameters: datetime | None
) -> list[BatchTotals]:
    return [
        BatchTotals(
            backend=row.backend,
            state=row.state,
            batches=row.batches,
            problems=row.problems,
            counted=_counted(row),
        )
        for row in query(connection, statement, **parameters)
    ]


def note_checked(
    connection: sa.Connection, batch: BatchRun, *, problem: str | None, now: datetime
) -> None:
    """Note that a batch was asked about, and what was wrong with the answer."""
    run(
        connection,
        "UPDATE batch_run SET checked_at = :now, problem = :problem, missing_since = NULL "
        "WHERE backend = :backend AND batch_id = :batch_id",
        now=now,
        problem=problem,
        **_key(batch),
    )


def note_missing(
    connection: sa.Connection, batch: BatchRun, *, problem: str, now: datetime
) -> datetime:
    """Note that the backend has a batch, or results of it, no more; since when it says so."""
    return only(
        connection,
        "UPDATE batch_run SET checked_at = :now, problem = :problem, "
        "missing_since = coalesce(missing_since, :now) "
        "WHERE backend = :backend AND batch_id = :batch_id RETURNING missing_since",
        now=now,
        problem=problem,
        **_key(batch),
    ).missing_since


def note_ended(connection: sa.Connection, batch: BatchRun, ended: Ended) -> None:
    """Note that a batch is over; what was noted first stands."""
    run(
        connection,
        _NOTE_ENDED,
        at=ended.at,
        outcome=ended.outcome,
        output=ended.files.get(ResultFile.OUTPUT),
        error=ended.files.get(ResultFile.ERROR),
        requests=ended.requests,
        answered=ended.answered,
        **_key(batch),
    )


def add_lines(
    connection: sa.Connection, batch: BatchRun, file: ResultFile, counted: Counted
) -> None:
    """Count lines, and pass them in their file."""
    run(
        connection,
        _ADD,
        lines=counted.lines,
        events=counted.events,
        errors=counted.errors,
        unreadable=counted.unreadable,
        anomalies=counted.anomalies,
        output=counted.lines if file is ResultFile.OUTPUT else 0,
        error=counted.lines if file is ResultFile.ERROR else 0,
        **_key(batch),
    )


def close_batch(
    connection: sa.Connection,
    batch: BatchRun,
    state: BatchState,
    *,
    problem: str | None,
    now: datetime,
) -> None:
    """Say how a batch's settlement ended, or open it again."""
    run(connection, _CLOSE, state=state, problem=problem, now=now, **_key(batch))


def _key(batch: BatchRun) -> dict[str, str]:
    return {"backend": batch.backend, "batch_id": batch.batch_id}


def _settlement(row: sa.Row[Any]) -> Settlement:
    ended = None
    if row.completed_at is not None:
        ids = {ResultFile.OUTPUT: row.output_file_id, ResultFile.ERROR: row.error_file_id}
        ended = Ended(
            at=row.completed_at,
            outcome=row.outcome,
            files={file: id_ for file, id_ in ids.items() if id_ is not None},
            requests=row.requests,
            answered=row.answered,
        )
    return Settlement(
        batch=BatchRun(
            batch_id=row.batch_id,
            backend=row.backend,
            tenant_id=row.tenant_id,
            project_id=row.project_id,
            key_id=row.key_id,
            model_id=row.model_id,
            price_version_id=row.price_version_id,
            endpoint=row.endpoint,
            input_file_id=row.input_file_id,
            submitted_at=row.submitted_at,
            hold_id=row.hold_id,
        ),
        tenant=row.tenant,
        state=BatchState(row.state),
        ended=ended,
        passed={ResultFile.OUTPUT: row.output_passed, ResultFile.ERROR: row.error_passed},
        counted=_counted(row),
        checked_at=row.checked_at,
        billed_at=row.billed_at,
        problem=row.problem,
    )


def _counted(row: sa.Row[Any]) -> Counted:
    return Counted(
        events=row.events, errors=row.errors, unreadable=row.unreadable, anomalies=row.anomalies
    )
