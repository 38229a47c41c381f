"""What kept journals still hold: the outcomes of every segment, in pages.

Decides which records the ledger should know: usage, scrap, and for an instance whose owner is
gone the outcomes of what it left open. A journal that cannot be read stops no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from billing.errors import JournalError
from billing.journal.reader import (
    Segment,
    list_instances,
    read_from,
    records_of,
    segments,
    try_adopt,
)
from billing.journal.records import Record
from billing.journal.recovery import recover
from billing.operations.metering.book_page import is_outcome

RECORDS_AT_ONCE: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPage:
    """Outcomes of one segment.

    Attributes:
        segment: number of the segment; 0 for outcomes of what a dead owner left open.
        offset: where in the segment they begin to be read.
    """

    instance: str
    segment: int
    offset: int
    records: list[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A journal that cannot be read to its end, and why."""

    instance: str
    reason: str


def kept_segments(directory: Path, *, since: datetime | None) -> list[Segment]:
    """Segments that were written at or after an instant, oldest instance first."""
    return [
        segment
        for folder in list_instances(directory)
        for segment in segments(folder)
        if since is None or datetime.fromtimestamp(segment.path.stat().st_mtime, UTC) >= since
    ]


def kept_pages(directory: Path, *, since: datetime | None) -> Iterator[KeptPage | Unreadable]:
    """The outcomes of kept segments; of a live instance only what is durable."""
    wanted = {segment.path for segment in kept_segments(directory, since=since)}
    for folder in list_instances(directory):
        own = [segment for segment in segments(folder) if segment.path in wanted]
        try:
            for segment in own:
                yield from _pages(folder.name, segment)
            if own:
                yield from _left_open(folder)
        except JournalError as error:
            yield Unreadable(instance=folder.name, reason=str(error))
        except OSError as error:
            yield Unreadable(instance=folder.name, reason=f"cannot be read: {error.strerror}")


def _pages(instance: str, segment: Segment) -> Iterator[KeptPage]:
    offset, at_end = 0, False
    while not at_end:
        page = read_from(segment.path, offset)
        outcomes = [record for record in page.records if is_outcome(record)]
        for at in range(0, len(outcomes), RECORDS_AT_ONCE):
            records = outcomes[at : at + RECORDS_AT_ONCE]
            yield KeptPage(
                instance=instance, segment=segment.number, offset=offset, records=records
            )
        offset, at_end = page.next_offset, page.at_end


def _left_open(folder: Path) -> Iterator[KeptPage]:
    lock = try_adopt(folder)
    if lock is None:
        return  # its owner lives, and ends what it began
    with lock:
        records = recover(
            record for segment in segments(folder) for record in records_of(segment.path)
        )
    outcomes: list[Record] = [record for record in records if is_outcome(record)]
    if outcomes:
        yield KeptPage(instance=folder.name, segment=0, offset=0, records=outcomes)
