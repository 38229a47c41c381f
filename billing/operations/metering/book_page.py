"""Book a page of journal records, and set aside the few that the ledger can never take.

Decides: a record that no partition takes (a clock at 1970, a month that has left the database) or
whose numbers do not fit is kept whole in `refused_record` and passed, because a page that fails
for ever would keep every later record of its journal out of the ledger.
Does not decide: what becomes of refused records; `steelyard journal refused` shows them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError

from billing.journal.records import UNBILLED, UNREACHED, Record, Usage, Void, encode
from billing.store.refused import RefusedRow, refuse

UNBOOKABLE = (
    IntegrityError,
    DataError,
    # A COPY goes past SQLAlchemy, which would have wrapped these.
    psycopg.IntegrityError,
    psycopg.DataError,
    OverflowError,
    struct.error,
)
"""What the ledger answers to a record that it can never take; anything else is worth retrying."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a page of records lies: bytes from `offset` on of one segment."""

    instance: str
    segment: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """What became of a page: new events, scrap attempts, refused records."""

    events: int
    scrap: int
    refused: int

    def __add__(self, other: Booked) -> Booked:
        return Booked(
            events=self.events + other.events,
            scrap=self.scrap + other.scrap,
            refused=self.refused + other.refused,
        )


NOTHING = Booked(events=0, scrap=0, refused=0)

Append = Callable[[sa.Connection, Sequence[Record]], tuple[int, int]]


def book_page(
    connection: sa.Connection,
    records: Sequence[Record],
    append: Append,
    *,
    place: Place,
    now: datetime,
) -> Booked:
    """Append a page; a record that the ledger refuses is set aside and the others are booked.

    Args:
        append: appends records, answering (new events, scrap attempts).
        place: where the page lies, for who looks for a refused record in its file.
    """
    try:
        with connection.begin_nested():
            events, scrap = append(connection, records)
    except UNBOOKABLE as error:
        return _split(connection, records, append, error, place=place, now=now)
    return Booked(events=events, scrap=scrap, refused=0)


def _split(
    connection: sa.Connection,
    records: Sequence[Record],
    append: Append,
    error: Exception,
    *,
    place: Place,
    now: datetime,
) -> Booked:
    """Halve a refused page until the records to blame stand alone: few statements for few."""
    outcomes = [record for record in records if is_outcome(record)]
    if len(outcomes) == 1:
        refuse(connection, refused_row(outcomes[0], error, place=place, now=now))
        return Booked(events=0, scrap=0, refused=1)
    middle = len(outcomes) // 2
    halves = (outcomes[:middle], outcomes[middle:])
    return sum(
        (book_page(connection, half, append, place=place, now=now) for half in halves), NOTHING
    )


def is_outcome(record: Record) -> bool:
    """Whether the ledger keeps this record: usage, or an attempt whose cost is scrap."""
    return isinstance(record, Usage) or (
        isinstance(record, Void) and record.reason not in (UNBILLED, UNREACHED)
    )


def refused_row(record: Record, error: Exception, *, place: Place, now: datetime) -> RefusedRow:
    """A refused record with the kind of the refusal; never its text, which repeats the row."""
    cause = getattr(error, "orig", None) or error
    return RefusedRow(
        event_id=UUID(bytes=record.id),
        kind="usage" if isinstance(record, Usage) else "void",
        instance=place.instance,
        segment=place.segment,
        page_offset=place.offset,
        reason=type(cause).__name__,
        payload=encode(record),
        refused_at=now,
    )
