"""What lies beside events and leaves the database with their month: steps, and failed attempts.

Both are archived as they are, each as a file of its own beside the month's events. No amount and
no sealed record depends on them; what failed attempts came to stays as totals per quarter hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from billing.store.database import members, only, query, run


class DetailKind(StrEnum):
    """What an archive holds beside events."""

    STEPS = "steps"
    ATTEMPTS = "attempts"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailRow:
    """A file beside an archive's; kinds without rows have none."""

    kind: DetailKind
    url: str
    bytes: int
    sha256: bytes
    rows: int


_TABLE: Mapping[DetailKind, str] = {
    DetailKind.STEPS: "usage_step",
    DetailKind.ATTEMPTS: "usage_attempt",
}
_KEY: Mapping[DetailKind, tuple[str, ...]] = {
    DetailKind.STEPS: ("event_id",),
    DetailKind.ATTEMPTS: ("operation_id", "ordinal"),
}


def _month_ids(kind: DetailKind) -> str:
    id_ = _KEY[kind][0]
    return (
        f"{id_} >= first_event_id(CAST(:month AS date)::timestamp AT TIME ZONE 'UTC') AND "
        f"{id_} < first_event_id((CAST(:month AS date) + interval '1 month') AT TIME ZONE 'UTC')"
    )


def detail_columns(connection: sa.Connection, kind: DetailKind) -> dict[str, str]:
    """PostgreSQL type by column, in the table's order."""
    rows = query(
        connection,
        "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_attribute "
        "WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum",
        table=_TABLE[kind],
    )
    return {row.attname: row.kind for row in rows}


def detail_count(connection: sa.Connection, kind: DetailKind, month: date) -> int:
    """How many rows a month has."""
    return only(
        connection,
        f"SELECT count(*) AS rows FROM {_TABLE[kind]} WHERE {_month_ids(kind)}",  # noqa: S608  # our own names
        month=month,
    ).rows


def month_details(
    connection: sa.Connection, kind: DetailKind, month: date, *, at_once: int
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The rows of a month by key, `at_once` at a time; memory is bounded by that."""
    rows = connection.execute(
        sa.text(
            f"SELECT * FROM {_TABLE[kind]} WHERE {_month_ids(kind)} "  # noqa: S608  # our own names
            f"ORDER BY {', '.join(_KEY[kind])}"
        ),
        {"month": month},
        execution_options={"stream_results": True, "yield_per": at_once},
    )
    for part in rows.partitions(at_once):
        yield [tuple(row) for row in part]


def insert_details(
    connection: sa.Connection, rows: Sequence[DetailRow], *, archive_id: int, month: date
) -> None:
    """Write down the files beside an archive, and what the month's failed attempts come to."""
    for row in rows:
        run(
            connection,
            "INSERT INTO usage_archive_detail (archive_id, kind, url, bytes, sha256, rows) "
            "VALUES (:archive, :kind, :url, :bytes, :sha256, :rows)",
            archive=archive_id,
            **asdict(row),
        )
    run(
        connection,
        "INSERT INTO usage_archived_attempt_total (archive_id, bucket, tenant_id, model_id, "  # noqa: S608  # our own names
        "backend_id, reason, attempts) SELECT :archive, date_bin('15 minutes', at, '1970-01-01Z'), "
        "tenant_id, model_id, backend_id, reason, count(*) FROM usage_attempt "
        f"WHERE {_month_ids(DetailKind.ATTEMPTS)} GROUP BY 1, 2, 3, 4, 5, 6",
        archive=archive_id,
        month=month,
    )


def details_of(connection: sa.Connection, archive_id: int) -> list[DetailRow]:
    """The files beside an archive."""
    rows = query(
        connection,
        "SELECT kind, url, bytes, sha256, rows FROM usage_archive_detail "
        "WHERE archive_id = :archive ORDER BY kind",
        archive=archive_id,
    )
    return [
        DetailRow(**members(row, kind=DetailKind(row.kind), sha256=bytes(row.sha256)))
        for row in rows
    ]
