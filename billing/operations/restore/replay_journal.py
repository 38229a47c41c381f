"""Book kept journals again: every record that is still on the disk, whatever was shipped before.

Harmless at any time by L3: what the ledger knows changes nothing. Cursors stay where they are, so
that the ledger writer may run meanwhile. A record that the ledger cannot take is set aside as the
writer does it; one of a month that has left the database is only counted: its archive has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path

import sqlalchemy as sa

from billing.journal.records import Record, Usage
from billing.metering.event_id import from_microseconds
from billing.operations.metering.book_page import Booked, Place, book_page
from billing.operations.metering.encode_page import append_records
from billing.operations.restore.kept_records import (
    KeptPage,
    Unreadable,
    kept_pages,
    kept_segments,
)
from billing.store.database import Database, Role
from billing.store.retention import dropped_months

Progress = Callable[[int, int], None]
"""Called with (segments begun, segments in all)."""


@dataclass(slots=True)
class Replay:
    """What a replay found in kept journals.

    Attributes:
        new: usage events that the ledger did not know.
        known: usage events that it knew.
        attempts: attempts that bill nothing; those that were known changed nothing.
        refused: records that the ledger cannot take, set aside.
        archived: usage events of months that have left the database.
        damaged: journals that cannot be read to their end.
    """

    new: int = 0
    known: int = 0
    attempts: int = 0
    refused: int = 0
    archived: int = 0
    damaged: list[str] = field(default_factory=list[str])


def replay_journals(
    database: Database,
    directory: Path,
    *,
    since: datetime | None,
    now: datetime,
    progress: Progress | None = None,
) -> Replay:
    """Append what the segments under `directory` hold.

    Args:
        since: only segments that were written at or after this instant; None means all.
    """
    replay = Replay()
    with database.transaction(Role.INGEST) as connection:
        gone = dropped_months(connection)
    in_all = len(kept_segments(directory, since=since))
    seen: set[tuple[str, int]] = set()
    for page in kept_pages(directory, since=since):
        if isinstance(page, Unreadable):
            replay.damaged.append(f"{page.instance}: {page.reason}")
            continue
        _append(database, page, replay, gone=gone, now=now)
        if page.segment:
            seen.add((page.instance, page.segment))
        if progress is not None:
            progress(len(seen), in_all)
    return replay


def _append(
    database: Database, page: KeptPage, replay: Replay, *, gone: frozenset[date], now: datetime
) -> None:
    records = [record for record in page.records if not _has_left(record, gone)]
    place = Place(instance=page.instance, segment=page.segment, offset=page.offset)

    def work(connection: sa.Connection) -> Booked:
        return book_page(connection, records, append_records, place=place, now=now)

    booked = database.retrying(Role.INGEST, work)
    replay.archived += len(page.records) - len(records)
    replay.new += booked.events
    replay.attempts += booked.scrap
    replay.refused += booked.refused
    replay.known += len(records) - booked.events - booked.scrap - booked.refused


def _has_left(record: Record, gone: frozenset[date]) -> bool:
    """Whether the month in which an event was minted has left the database, into an archive."""
    if not isinstance(record, Usage):
        return False
    minted_at = from_microseconds(int.from_bytes(record.id[:6]) * 1_000)
    return minted_at.date().replace(day=1) in gone
