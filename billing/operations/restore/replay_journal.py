"""Book kept journals again: every record that is still on the disk, whatever was shipped before.

Harmless at any time by L3: what the ledger knows changes nothing. Cursors stay where they are, so
that the ledger writer may run meanwhile. A record that the ledger cannot take is counted and no
more: the writer sets it aside when it comes to it, and one of a month that has left the database
is in that month's archive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from billing.journal.records import Record, Usage
from billing.operations.metering.book_page import UNBOOKABLE
from billing.operations.metering.encode_page import append_records
from billing.operations.restore.kept_records import Unreadable, kept_pages, kept_segments
from billing.store.database import Database, Role

Progress = Callable[[int, int], None]
"""Called with (segments begun, segments in all)."""


@dataclass(slots=True)
class Replay:
    """What a replay found in kept journals.

    Attributes:
        new: usage events that the ledger did not know.
        known: usage events that it knew.
        attempts: attempts that bill nothing; those that were known changed nothing.
        refused: records that the ledger cannot take.
        damaged: journals that cannot be read to their end.
    """

    new: int = 0
    known: int = 0
    attempts: int = 0
    refused: int = 0
    damaged: list[str] = field(default_factory=list[str])


def replay_journals(
    database: Database,
    directory: Path,
    *,
    since: datetime | None,
    progress: Progress | None = None,
) -> Replay:
    """Append what the segments under `directory` hold.

    Args:
        since: only segments that were written at or after this instant; None means all.
    """
    replay = Replay()
    in_all = len(kept_segments(directory, since=since))
    seen: set[tuple[str, int]] = set()
    for page in kept_pages(directory, since=since):
        if isinstance(page, Unreadable):
            replay.damaged.append(f"{page.instance}: {page.reason}")
            continue
        _append(database, page.records, replay)
        if page.segment:
            seen.add((page.instance, page.segment))
        if progress is not None:
            progress(len(seen), in_all)
    return replay


def _append(database: Database, records: list[Record], replay: Replay) -> None:
    usages = sum(isinstance(record, Usage) for record in records)

    def work(connection: sa.Connection) -> tuple[int, int]:
        return append_records(connection, records)

    try:
        new, _ = database.retrying(Role.INGEST, work)
    except UNBOOKABLE:
        if len(records) == 1:
            replay.refused += 1
            return
        middle = len(records) // 2
        _append(database, records[:middle], replay)
        _append(database, records[middle:], replay)
        return
    replay.new += new
    replay.known += usages - new
    replay.attempts += len(records) - usages
