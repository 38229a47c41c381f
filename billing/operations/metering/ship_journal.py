"""Ship the proxy's journals into the usage ledger, and settle what a dead proxy left open.

One page of a journal is one transaction: its events, its scrap and the cursor that has passed
them commit together, so a crash anywhere repeats a page and the repetition changes nothing (L5).
A journal whose owner is dead is adopted by its file lock; operations that it began and never
ended are billed as their last checkpoint says, flagged `estimated`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from billing.errors import CursorMoved, JournalError
from billing.journal.reader import (
    KEEP_MS,
    Segment,
    list_instances,
    prune,
    read_from,
    records_of,
    segments,
    try_adopt,
)
from billing.journal.records import Record, Usage, Void
from billing.journal.recovery import OpenOperations
from billing.operations.admission.leases import close_leases
from billing.operations.metering.book_page import UNBOOKABLE, Booked, Place, book_page
from billing.operations.metering.encode_page import (
    EncodedPage,
    Names,
    append_page,
    append_records,
    encode_page,
    look_up,
    outcomes_of,
)
from billing.store.database import Database, Role
from billing.store.usage.parked import (
    CursorRow,
    cursor,
    mark_shipped,
    move_cursor,
    unshipped,
)

MARK_EVERY = timedelta(seconds=10)
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Shipment:
    """What one pass shipped.

    Attributes:
        events: usage events that were new.
        recovered: of those, the ones that a dead proxy had left open.
        scrap: attempts that bill nothing.
        refused: records that the ledger can never take, set aside.
        damaged: what is wrong with journals that could not be read; the others are shipped.
    """

    events: int = 0
    recovered: int = 0
    scrap: int = 0
    refused: int = 0
    damaged: list[str] = field(default_factory=list[str])


class _Prepared(NamedTuple):
    """A page that has been read, and encoded if its values allow it."""

    records: list[Record]
    encoded: EncodedPage | None
    next_offset: int
    at_end: bool


@dataclass(slots=True)
class JournalShipper:
    """Ships every journal under one directory. One shipper per directory at a time.

    Attributes:
        directory: holds one folder per proxy process that ever ran.
        keep_ms: how long a segment stays after it was shipped.
    """

    database: Database
    directory: Path
    keep_ms: int = KEEP_MS
    _finished: set[str] = field(default_factory=set[str])
    _cursors: dict[str, CursorRow] = field(default_factory=dict[str, CursorRow])
    _names: Names | None = None
    _marked_at: datetime = NEVER
    _ahead: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="page")
    )

    def ship(self, *, now: datetime) -> Shipment:
        """Ship all that is durable now. A damaged journal does not hold up the others."""
        shipment = Shipment()
        shipped: list[str] = []
        # A meter may have got a new version since.
        self._names = None if self._names is None else self._names.lasting()
        for folder in list_instances(self.directory):
            if folder.name in self._finished:
                continue
            try:
                self._ship_instance(folder, shipment, now=now)
            except CursorMoved:
                # A commit of which no answer came was carried out after all: the next pass goes on
                # from where it stands.
                del self._cursors[folder.name]
            except SQLAlchemyError:
                # Whether the page is in is not known. What would be read from its start could be
                # longer by now, and another page with the same records in it.
                self._cursors.pop(folder.name, None)
                raise
            except JournalError as error:
                shipment.damaged.append(str(error))
            except OSError as error:
                shipment.damaged.append(f"{folder} cannot be read: {error.strerror}")
            else:
                shipped.append(folder.name)
        self._mark(shipped, now=now)
        return shipment

    def _mark(self, shipped: Sequence[str], *, now: datetime) -> None:
        """Tell how far journals are shipped, idle ones too; now and then, since it is a write."""
        live = [name for name in shipped if name not in self._finished]
        if live and now - self._marked_at >= MARK_EVERY:
            self.database.retrying(
                Role.INGEST, lambda connection: mark_shipped(connection, live, through=now)
            )
            self._marked_at = now

    def prune(self, *, now: datetime) -> int:
        """Remove segments that are shipped and old enough; how many."""
        removed = 0
        for folder in list_instances(self.directory):
            place = self._cursor(folder.name)
            shipped_through = place.segment if place.finished else place.segment - 1
            with suppress(OSError):  # `ship` reads the same folder, and says what is wrong
                removed += len(prune(folder, shipped_through, now, self.keep_ms))
        return removed

    def _ship_instance(self, folder: Path, shipment: Shipment, *, now: datetime) -> None:
        if self._cursor(folder.name).finished:
            self._finished.add(folder.name)
            return
        # Adopted before the last read: what is read to the end then is really the end.
        lock = try_adopt(folder)
        try:
            start = self._cursor(folder.name)
            files = [segment for segment in segments(folder) if segment.number >= start.segment]
            # Carried-over intents make the newest segment enough, with those not shipped before.
            # Also for an owner that closed in order: it may have been stopped with streams open.
            left_open = None if lock is None else OpenOperations()
            if left_open is not None:
                for segment in files[:1]:
                    if segment.number == start.segment:
                        left_open.note(records_of(segment.path, until=start.next_offset))
            for segment in files:
                self._ship_segment(folder, segment, shipment, left_open, now=now)
            if left_open is not None:
                self._finish(folder, left_open.outcomes(), shipment, now=now)
        finally:
            if lock is not None:
                lock.release()

    def _ship_segment(
        self,
        folder: Path,
        segment: Segment,
        shipment: Shipment,
        left_open: OpenOperations | None,
        *,
        now: datetime,
    ) -> None:
        place = self._cursor(folder.name)
        offset = place.next_offset if place.segment == segment.number else 0
        # The next page is read and encoded while the server is busy with this one. Pages commit
        # one after the other all the same, each with the cursor that has passed it.
        prepared = self._prepare(segment.path, offset)
        while True:
            page, ahead = prepared, None
            if not page.at_end:
                ahead = self._ahead.submit(self._prepare, segment.path, page.next_offset)
            try:
                if page.records or segment.number != self._cursor(folder.name).segment:
                    to = CursorRow(
                        instance=folder.name,
                        segment=segment.number,
                        next_offset=page.next_offset,
                        finished=False,
                    )
                    place = Place(instance=folder.name, segment=segment.number, offset=offset)
                    self._commit(page, place, to, shipment, now=now)
                if left_open is not None:
                    left_open.note(page.records)
            finally:
                following = _settled(ahead)
            if following is None:
                return
            offset, prepared = page.next_offset, following.result()

    def _prepare(self, path: Path, offset: int) -> _Prepared:
        page = read_from(path, offset)
        return _Prepared(page.records, self._encode(page.records), page.next_offset, page.at_end)

    def _encode(self, records: Sequence[Record]) -> EncodedPage | None:
        outcomes = outcomes_of(records)
        names = self._names
        try:
            if names is None or not names.cover(outcomes):
                names = self.database.retrying(
                    Role.INGEST, lambda connection: look_up(connection, outcomes, self._names)
                )
                self._names = names  # committed by now
            return encode_page(outcomes, names)
        except UNBOOKABLE:
            return None  # record by record, then

    def _finish(
        self, folder: Path, left_open: list[Usage | Void], shipment: Shipment, *, now: datetime
    ) -> None:
        place = self._cursor(folder.name)
        to = CursorRow(
            instance=folder.name,
            segment=place.segment,
            next_offset=place.next_offset,
            finished=True,
        )
        before = shipment.events
        records: list[Record] = [*left_open]
        page = _Prepared(records, self._encode(records), to.next_offset, at_end=True)
        place = Place(instance=to.instance, segment=to.segment, offset=to.next_offset)
        self._commit(page, place, to, shipment, now=now)
        shipment.recovered += shipment.events - before
        self._finished.add(folder.name)

    def _commit(
        self,
        page: _Prepared,
        place: Place,
        to: CursorRow,
        shipment: Shipment,
        *,
        now: datetime,
    ) -> None:
        encoded, since = page.encoded, self._cursor(to.instance)

        def whole(connection: sa.Connection) -> Booked:
            move_cursor(connection, to, since=since, now=now)
            accepted, scrap = [], 0
            if encoded is not None:
                accepted, scrap = append_page(connection, encoded, again=False)
            _close(connection, to)
            return Booked(events=len(accepted), scrap=scrap, refused=0)

        def apart(connection: sa.Connection) -> Booked:
            move_cursor(connection, to, since=since, now=now)
            append = partial(append_records, again=False)
            booked = book_page(connection, page.records, append, place=place, now=now)
            _close(connection, to)
            return booked

        booked = self._booked(apart if encoded is None else whole, apart)
        shipment.events += booked.events
        shipment.scrap += booked.scrap
        shipment.refused += booked.refused
        self._cursors[to.instance] = to

    def _booked(
        self,
        work: Callable[[sa.Connection], Booked],
        instead: Callable[[sa.Connection], Booked],
    ) -> Booked:
        try:
            return self.database.retrying(Role.INGEST, work)
        except UNBOOKABLE:
            return self.database.retrying(Role.INGEST, instead)

    def _cursor(self, instance: str) -> CursorRow:
        if instance not in self._cursors:
            with self.database.transaction(Role.INGEST) as connection:
                stored = cursor(connection, instance)
            self._cursors[instance] = stored or unshipped(instance)
        return self._cursors[instance]


def _close(connection: sa.Connection, to: CursorRow) -> None:
    """At the end of a journal its process's leases end with it."""
    if to.finished:
        close_leases(connection, to.instance)


def _settled(ahead: Future[_Prepared] | None) -> Future[_Prepared] | None:
    """The page ahead once nobody works on it any more; its error is its reader's to raise."""
    if ahead is not None:
        ahead.exception()
    return ahead
