"""Ship the proxy's journals into the usage ledger, and settle what a dead proxy left open.

One page of a journal is one transaction: its events, its scrap and the cursor that has passed
them commit together, so a crash anywhere repeats a page and the repetition changes nothing (L5).
A journal whose owner is dead is adopted by its file lock; operations that it began and never
ended are billed as their last checkpoint says, flagged `estimated`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError

from billing.errors import JournalError
from billing.journal.reader import (
    Segment,
    list_instances,
    prune,
    read_from,
    records_of,
    segments,
    try_adopt,
)
from billing.journal.records import UNREACHED, Attribution, Checkpoint, Intent, Record, Usage, Void
from billing.journal.recovery import recover
from billing.metering.event_id import from_microseconds
from billing.metering.meter import BUILT_IN
from billing.metering.usage_event import Cause
from billing.store import catalog
from billing.store.database import Database, Role
from billing.store.usage import append as usage_store
from billing.store.usage.append import EventRow
from billing.store.usage.parked import CursorRow, cursor, move_cursor
from billing.store.usage.read import ScrapRow, insert_scrap


@dataclass(slots=True)
class Shipment:
    """What one pass shipped.

    Attributes:
        events: usage events that were new.
        recovered: of those, the ones that a dead proxy had left open.
        scrap: attempts that bill nothing.
        damaged: what is wrong with journals that could not be read or booked; the others are
            shipped.
    """

    events: int = 0
    recovered: int = 0
    scrap: int = 0
    damaged: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class JournalShipper:
    """Ships every journal under one directory. One shipper per directory at a time.

    Attributes:
        directory: holds one folder per proxy process that ever ran.
    """

    database: Database
    directory: Path
    _finished: set[str] = field(default_factory=set[str])
    _cursors: dict[str, CursorRow] = field(default_factory=dict[str, CursorRow])

    def ship(self, *, now: datetime) -> Shipment:
        """Ship all that is durable now. A damaged journal does not hold up the others."""
        shipment = Shipment()
        for folder in list_instances(self.directory):
            if folder.name in self._finished:
                continue
            try:
                self._ship_instance(folder, shipment, now=now)
            except JournalError as error:
                shipment.damaged.append(str(error))
            except OSError as error:
                shipment.damaged.append(f"{folder} cannot be read: {error.strerror}")
            except (IntegrityError, DataError) as error:
                # A clock that was years off at boot, say: no partition takes such an id. The
                # kind only: the database's text repeats the row.
                refusal = type(error.orig).__name__
                shipment.damaged.append(f"{folder}: the ledger refuses a record ({refusal})")
        return shipment

    def prune(self, *, now: datetime) -> int:
        """Remove segments that are shipped and old enough; how many."""
        removed = 0
        for folder in list_instances(self.directory):
            place = self._cursor(folder.name)
            shipped_through = place.segment if place.finished else place.segment - 1
            with suppress(OSError):  # `ship` reads the same folder, and says what is wrong
                removed += len(prune(folder, shipped_through, now))
        return removed

    def _ship_instance(self, folder: Path, shipment: Shipment, *, now: datetime) -> None:
        if self._cursor(folder.name).finished:
            self._finished.add(folder.name)
            return
        # Adopted before the last read: what is read to the end then is really the end.
        lock = try_adopt(folder)
        try:
            start = self._cursor(folder.name).segment
            files = [segment for segment in segments(folder) if segment.number >= start]
            for segment in files:
                self._ship_segment(folder, segment, shipment, now=now)
            if lock is not None:
                self._finish(folder, files, shipment, now=now)
        finally:
            if lock is not None:
                lock.release()

    def _ship_segment(
        self, folder: Path, segment: Segment, shipment: Shipment, *, now: datetime
    ) -> None:
        place = self._cursor(folder.name)
        offset = place.next_offset if place.segment == segment.number else 0
        at_end = False
        while not at_end:
            page = read_from(segment.path, offset)
            at_end, offset = page.at_end, page.next_offset
            if page.records or segment.number != self._cursor(folder.name).segment:
                to = CursorRow(
                    instance=folder.name,
                    segment=segment.number,
                    next_offset=offset,
                    finished=False,
                )
                self._commit(page.records, to, shipment, now=now)

    def _finish(
        self, folder: Path, files: Sequence[Segment], shipment: Shipment, *, now: datetime
    ) -> None:
        # Carried-over intents make the newest segment enough, with those not shipped before. Also
        # for an owner that closed in order: it may have been told to stop with streams open.
        left_open = recover(record for file in files for record in records_of(file.path))
        place = self._cursor(folder.name)
        to = CursorRow(
            instance=folder.name,
            segment=place.segment,
            next_offset=place.next_offset,
            finished=True,
        )
        before = shipment.events
        self._commit(left_open, to, shipment, now=now)
        shipment.recovered += shipment.events - before
        self._finished.add(folder.name)

    def _commit(
        self, records: Sequence[Record], to: CursorRow, shipment: Shipment, *, now: datetime
    ) -> None:
        def work(connection: sa.Connection) -> tuple[int, int]:
            counted = append_records(connection, records)
            move_cursor(connection, to, now=now)
            return counted

        events, scrap = self.database.retrying(Role.INGEST, work)
        shipment.events += events
        shipment.scrap += scrap
        self._cursors[to.instance] = to

    def _cursor(self, instance: str) -> CursorRow:
        if instance not in self._cursors:
            with self.database.transaction(Role.INGEST) as connection:
                stored = cursor(connection, instance)
            self._cursors[instance] = stored or CursorRow(
                instance=instance, segment=0, next_offset=0, finished=False
            )
        return self._cursors[instance]


def append_records(connection: sa.Connection, records: Iterable[Record]) -> tuple[int, int]:
    """Append the outcomes among journal records: (new events, scrap attempts)."""
    usages: list[Usage] = []
    voids: list[Void] = []
    for record in records:
        match record:
            case Usage():
                usages.append(record)
            case Void() if record.reason != UNREACHED:
                voids.append(record)
            case Intent() | Checkpoint() | Void():
                pass
    if not usages and not voids:
        return 0, 0
    backends = catalog.ensure_backends(
        connection, (record.attribution.backend for record in (*usages, *voids))
    )
    insert_scrap(connection, [_scrap(void, backends) for void in voids])
    if not usages:
        return 0, len(voids)
    meters = catalog.meters(connection)
    meter_set = usage_store.ensure_meter_set(
        connection, [meters[meter.code].id for meter in BUILT_IN]
    )
    shapes: dict[tuple[str, ...], int] = {(): catalog.NONE}
    rows: list[EventRow] = []
    for usage in usages:
        paths = tuple(sorted(usage.raw))
        if paths not in shapes:
            shapes[paths] = usage_store.ensure_usage_shape(connection, paths)
        rows.append(_event(usage, backends, meter_set, shapes[paths], paths))
    return len(usage_store.append(connection, rows).accepted), len(voids)


def _event(
    usage: Usage,
    backends: dict[str, int],
    meter_set: int,
    shape: int,
    paths: tuple[str, ...],
) -> EventRow:
    whose: Attribution = usage.attribution
    counts = usage.counts
    return EventRow(
        id=UUID(bytes=usage.id),
        occurred_at=from_microseconds(usage.at_us),
        tenant_id=whose.tenant_id,
        project_id=whose.project_id,
        key_id=whose.key_id,
        model_id=whose.model_id,
        backend_id=backends[whose.backend],
        price_version_id=whose.price_version_id,
        meter_set_id=meter_set,
        kind=whose.kind,
        cause=int(Cause[usage.cause.upper()]),
        estimated=usage.estimated,
        # The order of BUILT_IN: the token classes, then requests.
        quantities=(counts.input, counts.cached_input, counts.cache_write, counts.output, 1),
        raw_shape_id=shape,
        raw_counts=tuple(usage.raw[path] for path in paths),
        ttft_us=usage.ttft_us,
        duration_us=usage.duration_us,
    )


def _scrap(void: Void, backends: dict[str, int]) -> ScrapRow:
    return ScrapRow(
        id=UUID(bytes=void.id),
        at=from_microseconds(void.at_us),
        tenant_id=void.attribution.tenant_id,
        model_id=void.attribution.model_id,
        backend_id=backends[void.attribution.backend],
        reason=void.reason,
    )
