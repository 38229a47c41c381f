"""Decide about a journal record that the ledger did not take: book it after mending, or let it go.

A decision is made once and for good, with its reason and who made it; the same one again answers
what was decided. Booking is that of the ledger writer, so a record that was booked meanwhile adds
nothing (L3).
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.journal.records import Usage, Void, decode
from billing.metering.usage_event import require_text
from billing.operations.metering.book_page import UNBOOKABLE
from billing.operations.metering.encode_page import append_records
from billing.store import refused as store
from billing.store.database import Role, acting_as
from billing.store.refused import RefusedRow, ResolutionRow

BOOKED = "booked"
DISMISSED = "dismissed"


def book_refused(
    connection: sa.Connection, event_id: UUID, *, reason: str, actor: str, now: datetime
) -> list[ResolutionRow]:
    """Book what was refused of an operation, as the operator, now that its cause is mended.

    Raises:
        NotFound: no record of this operation was refused.
        Conflict: it was dismissed before, or the ledger still does not take it.
        InvalidInput: a reason that is empty or too long.
    """
    require_text(reason, field="reason")
    open_rows, decided = _undecided(connection, event_id, outcome=BOOKED)
    try:
        with acting_as(connection, Role.INGEST):
            append_records(connection, [_outcome(row) for row in open_rows])
    except UNBOOKABLE as error:
        cause = getattr(error, "orig", None) or error
        raise Conflict(
            f"the ledger still cannot take it: {type(cause).__name__}",
            field="event",
            remedy="mend what the reason names and try again, or dismiss it",
        ) from None
    return decided + _decide(connection, open_rows, BOOKED, reason=reason, actor=actor, now=now)


def dismiss_refused(
    connection: sa.Connection, event_id: UUID, *, reason: str, actor: str, now: datetime
) -> list[ResolutionRow]:
    """Let go what was refused of an operation: it is never billed, and the record of it stays.

    Raises:
        NotFound: no record of this operation was refused.
        Conflict: it was booked before.
        InvalidInput: a reason that is empty or too long.
    """
    require_text(reason, field="reason")
    open_rows, decided = _undecided(connection, event_id, outcome=DISMISSED)
    return decided + _decide(connection, open_rows, DISMISSED, reason=reason, actor=actor, now=now)


def _undecided(
    connection: sa.Connection, event_id: UUID, *, outcome: str
) -> tuple[list[RefusedRow], list[ResolutionRow]]:
    rows = store.refused_of(connection, event_id)
    if not rows:
        raise NotFound(
            "no record of this operation was refused",
            field="event",
            remedy="see `steelyard journal refused`",
        )
    known = store.resolutions(connection, event_id)
    if any(each.outcome != outcome for each in known.values()):
        raise _decided_otherwise()
    return [row for row in rows if row.kind not in known], list(known.values())


def _decide(
    connection: sa.Connection,
    rows: list[RefusedRow],
    outcome: str,
    *,
    reason: str,
    actor: str,
    now: datetime,
) -> list[ResolutionRow]:
    made = [
        ResolutionRow(
            event_id=row.event_id,
            kind=row.kind,
            outcome=outcome,
            reason=reason,
            resolved_by=actor,
            resolved_at=now,
        )
        for row in rows
    ]
    for resolution in made:
        if not store.resolve(connection, resolution):
            # Somebody decided while this did; if otherwise, theirs came first.
            theirs = store.resolutions(connection, resolution.event_id)[resolution.kind]
            if theirs.outcome != outcome:
                raise _decided_otherwise()
    return made


def _outcome(row: RefusedRow) -> Usage | Void:
    record = decode(row.payload)
    assert isinstance(record, Usage | Void)
    return record


def _decided_otherwise() -> Conflict:
    return Conflict(
        "it was decided otherwise before",
        field="event",
        remedy="a decision about a refused record is for good",
    )
