"""Archive what lies beside a month's events: steps of agents' runs, and failed attempts.

Decides: each kind that has rows is a Parquet file of its own, found by its checksum and its number
of rows. They are no part of any bill or seal, so nothing rebuilds them but the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from billing.archive.parquet import columns_of, read_events, write_events
from billing.archive.places import ArchivePlace, sha256_of
from billing.store import archive_details as store
from billing.store.archive_details import DetailKind, DetailRow

ROWS_AT_ONCE = 10_000


def write_details(
    connection: sa.Connection, place: ArchivePlace, month: date, *, ordinal: int
) -> list[DetailRow]:
    """Write a month's details beside its archive, in the transaction that reads its events."""
    return [
        _write(connection, place, kind, month, name=f"{kind}-{month:%Y-%m}.{ordinal}.parquet")
        for kind, rows in counted_details(connection, month).items()
        if rows
    ]


def counted_details(connection: sa.Connection, month: date) -> dict[DetailKind, int]:
    """How many rows of each kind the database holds of a month."""
    return {kind: store.detail_count(connection, kind, month) for kind in DetailKind}


def wrong_detail(place: ArchivePlace, details: Sequence[DetailRow]) -> str | None:
    """What is wrong with the first file that does not hold what it should.

    Raises:
        NotFound, ArchiveUnavailable, DamagedArchive, OSError: it cannot be read.
    """
    for detail in details:
        with place.open(detail.url.rpartition("/")[2]) as file:
            if sha256_of(file) != detail.sha256:
                return f"the file of {detail.kind} is not the one that was written"
            file.seek(0)
            rows = sum(len(group) for group in read_events(file, columns_of(file)))
        if rows != detail.rows:
            return f"the file of {detail.kind} holds {rows} rows instead of {detail.rows}"
    return None


def _write(
    connection: sa.Connection, place: ArchivePlace, kind: DetailKind, month: date, *, name: str
) -> DetailRow:
    columns = store.detail_columns(connection, kind)
    with tempfile.TemporaryDirectory(prefix="steelyard-archive-") as folder:
        draft = Path(folder).joinpath(name)
        write_events(
            draft,
            columns,
            store.month_details(connection, kind, month, at_once=ROWS_AT_ONCE),
        )
        with draft.open("rb") as file:
            digest = sha256_of(file)
            file.seek(0)
            rows = sum(len(group) for group in read_events(file, columns))
        size = draft.stat().st_size
        place.put(draft, name)
    return DetailRow(kind=kind, url=place.url(name), bytes=size, sha256=digest, rows=rows)
