"""Archive a closed month of usage events, and let it leave the database.

Decides: a month may be archived once it is over and wholly sealed, and dropped once its newest
archive was read back and holds it (in the database's own function, too). Writing the file, the
manifest and the reading back are one transaction: what is listed was read back once.
Does not decide how many months stay; the deployment's settings do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from billing.archive.parquet import DamagedArchive, read_events, write_events
from billing.archive.places import ArchivePlace, Bucket, archive_place, sha256_of
from billing.errors import Conflict, InvalidInput, NotFound
from billing.operations.deployment import data_dir
from billing.operations.retention.archive_details import counted_details, write_details
from billing.operations.retention.verify_archives import file_name, verify_archive
from billing.settings import Settings
from billing.store import retention
from billing.store.archive_details import details_of, insert_details
from billing.store.database import Database, Role, acting_as
from billing.store.retention import ArchiveRow, MonthRow
from billing.store.seal.folds import newest_fold

EVENTS_AT_ONCE = 10_000
LOCK = "archive"


Progress = Callable[[int, int], None]
"""Called with (events done, events in all)."""


def configured_place(settings: Settings) -> ArchivePlace:
    """Where this deployment keeps archives.

    Raises:
        ConfigurationError: the setting names no place.
    """
    if settings.archive_url is None:
        return archive_place(str(data_dir(settings).joinpath("archive")), Bucket())
    access, secret = settings.archive_access_key, settings.archive_secret_key
    bucket = Bucket(
        endpoint=settings.archive_endpoint,
        region=settings.archive_region,
        access_key=None if access is None else access.get_secret_value(),
        secret_key=None if secret is None else secret.get_secret_value(),
    )
    return archive_place(settings.archive_url, bucket)


def archive_month(
    database: Database,
    place: ArchivePlace,
    month: date,
    *,
    now: datetime,
    progress: Progress | None = None,
) -> ArchiveRow:
    """Archive a month; the archive that exists if it still holds the month as it is.

    Raises:
        NotFound: the database holds no such month.
        Conflict: it is not over, not sealed, or being archived by another process.
        DamagedArchive: what was written does not read back as the month.
    """
    with database.exclusive(LOCK) as held:
        if not held:
            raise Conflict("another process archives now", remedy="wait until it is done")
        # A month is read and written as long as it takes.
        with database.transaction(Role.OPERATOR, snapshot=True, answer_ms=0) as connection:
            content = _closed_month(connection, month, now=now)
            known = retention.archives(connection, month=month)
            if known and _holds(connection, known[0], content):
                return known[0]
            ordinal = known[0].ordinal + 1 if known else 1
            draft = _write(connection, place, content, ordinal=ordinal, now=now, progress=progress)
            archive = retention.insert_archive(connection, draft)
            details = write_details(connection, place, month, ordinal=ordinal)
            insert_details(connection, details, archive_id=archive.id, month=month)
            findings = verify_archive(connection, place, archive)
            if findings:
                raise DamagedArchive(f"{archive.url}: {findings[0].what}", field="archive")
            return archive


def drop_month(
    database: Database,
    place: ArchivePlace,
    month: date,
    *,
    now: datetime,
    keep_months: int | None = None,
) -> int:
    """Let an archived month leave the database; how many events it held.

    Args:
        keep_months: full months before the current one that must stay.

    Raises:
        NotFound: it is not archived.
        Conflict: it is to be kept, is not the oldest, changed since it was archived, or the
            ledger is too busy to let it go now.
        DamagedArchive: its archive does not hold it.
    """
    if not is_beyond(month, keep_months or 0, now=now):
        raise Conflict(
            "the month is to be kept",
            field="month",
            remedy="STEELYARD_RETENTION_MONTHS says how many full months stay",
        )
    with database.transaction(Role.OPERATOR, answer_ms=0) as connection:
        archive = _archive_of(connection, month)
        findings = verify_archive(connection, place, archive)
    if findings:
        raise DamagedArchive(f"{archive.url}: {findings[0].what}", field="archive")
    try:
        with database.transaction(Role.MAINTAINER, answer_ms=0) as connection:
            return retention.drop_month(connection, month, now=now)
    except DBAPIError as error:
        raise _refusal(error) from None


def apply_retention(
    database: Database, place: ArchivePlace, *, keep_months: int, now: datetime
) -> list[date]:
    """Archive and drop every month that is beyond the ones to keep, oldest first; which."""
    with database.transaction(Role.OPERATOR) as connection:
        held = retention.months(connection)
    beyond = [month for month in held if is_beyond(month, keep_months, now=now)]
    for month in beyond:
        archive_month(database, place, month, now=now)
        drop_month(database, place, month, keep_months=keep_months, now=now)
    return beyond


def read_back(
    database: Database, place: ArchivePlace, month: date, *, progress: Progress | None = None
) -> tuple[str, int]:
    """Read an archived month into a table of its own, beside the ledger: (table, events).

    Raises:
        NotFound: it is not archived.
        DamagedArchive: the file does not hold it.
    """
    with database.transaction(Role.OPERATOR, answer_ms=0) as connection:
        archive = _archive_of(connection, month)
        findings = verify_archive(connection, place, archive)
        if findings:
            raise DamagedArchive(f"{archive.url}: {findings[0].what}", field="archive")
        with acting_as(connection, Role.MAINTAINER):
            table = retention.make_restored(connection, month)
        columns = retention.archived_columns(connection)
        done = 0
        with place.open(file_name(archive)) as file:
            for rows in read_events(file, columns):
                retention.copy_rows(connection, ("public", table), columns, rows)
                done += len(rows)
                if progress is not None:
                    progress(done, archive.events)
    return table, done


def is_beyond(month: date, keep_months: int, *, now: datetime) -> bool:
    """Whether a month is over and none of the `keep_months` full months before the current one."""
    return (now.year - month.year) * 12 + now.month - month.month > keep_months


def _closed_month(connection: sa.Connection, month: date, *, now: datetime) -> MonthRow:
    if month.day != 1:
        raise InvalidInput(
            "a month begins on its first day", field="month", remedy="name a month, like 2026-10"
        )
    if month not in retention.months(connection):
        raise NotFound(
            "the database holds no such month",
            field="month",
            remedy="list the archives, since it may have left",
        )
    if not is_beyond(month, 0, now=now):
        raise Conflict("the month is not over", field="month", remedy="archive it next month")
    content = retention.month_content(connection, month)
    fold = newest_fold(connection)
    sealed_to = 0 if fold is None else fold.epoch_to
    if content.last_epoch is not None and content.last_epoch > sealed_to:
        raise Conflict(
            "the month is not wholly sealed",
            field="month",
            remedy="run `steelyard ledger seal` first",
        )
    return content


def _write(
    connection: sa.Connection,
    place: ArchivePlace,
    content: MonthRow,
    *,
    ordinal: int,
    now: datetime,
    progress: Progress | None,
) -> ArchiveRow:
    name = f"usage-{content.month:%Y-%m}.{ordinal}.parquet"
    columns = retention.archived_columns(connection)

    def counted() -> Iterator[Sequence[tuple[Any, ...]]]:
        done = 0
        for rows in retention.month_events(
            connection, content.month, list(columns), at_once=EVENTS_AT_ONCE
        ):
            yield rows
            done += len(rows)
            if progress is not None:
                progress(done, content.events)

    with tempfile.TemporaryDirectory(prefix="steelyard-archive-") as folder:
        draft = Path(folder).joinpath(name)
        write_events(draft, columns, counted())
        with draft.open("rb") as file:
            digest = sha256_of(file)
        size = draft.stat().st_size
        place.put(draft, name)
    return ArchiveRow(
        id=0,
        month=content.month,
        ordinal=ordinal,
        url=place.url(name),
        bytes=size,
        sha256=digest,
        events=content.events,
        first_epoch=content.first_epoch,
        last_epoch=content.last_epoch,
        archived_at=now,
    )


def _archive_of(connection: sa.Connection, month: date) -> ArchiveRow:
    known = retention.archives(connection, month=month)
    if not known:
        raise NotFound(
            "the month is not archived", field="month", remedy="run `steelyard archive create`"
        )
    return known[0]


def _holds(connection: sa.Connection, archive: ArchiveRow, content: MonthRow) -> bool:
    if (archive.events, archive.last_epoch) != (content.events, content.last_epoch):
        return False
    archived = {detail.kind: detail.rows for detail in details_of(connection, archive.id)}
    held = counted_details(connection, archive.month)
    return archived == {kind: rows for kind, rows in held.items() if rows}


def _refusal(error: DBAPIError) -> Exception:
    match getattr(error.orig, "sqlstate", None):
        case "55000":
            return Conflict(
                "the month is not the oldest one, or not archived as it is now",
                field="month",
                remedy="drop older months first, and archive this one again",
            )
        case "55P03":
            return Conflict("the usage ledger is busy", remedy="try again")
        case _:
            return error
