"""Months of the usage ledger: what they hold, their archives, and how they leave the database.

A month here is a partition: the events whose id was minted in that month, UTC, with what they
carried for dimensions. What such a month holds of the next one's time (a request is billed by its
last byte) stays when it leaves, in a partition of its own.
Archived rows are compared in temporary tables that bear the ledger's names, so that the very
statements that count and seal the ledger read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql

from billing.store.database import first, members, only, query, run
from billing.store.usage.verify_dimensions import DIMENSION_FACTS, DIMENSION_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthRow:
    """What a month holds now; the epochs are None if it holds nothing."""

    month: date
    events: int
    first_epoch: int | None
    last_epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveRow:
    """One archive of a month; the newest ordinal counts.

    Attributes:
        id: row id; 0 for one that is not written down yet.
        bytes, sha256: of the file at `url`.
    """

    id: int
    month: date
    ordinal: int
    url: str
    bytes: int
    sha256: bytes
    events: int
    first_epoch: int | None
    last_epoch: int | None
    archived_at: datetime


_MONTH_IDS = (
    "e.id >= first_event_id(CAST(:month AS date)::timestamp AT TIME ZONE 'UTC') AND "
    "e.id < first_event_id((CAST(:month AS date) + interval '1 month') AT TIME ZONE 'UTC')"
)

_TOTALS = f"""
SELECT e.tenant_id, date_bin('15 minutes', e.occurred_at, '1970-01-01Z') AS bucket,
    q.meter_version_id, e.model_id, e.price_version_id, e.project_id, e.key_id, e.kind, e.run_id,
    sum(q.quantity) AS quantity, count(*) AS events
  FROM usage_event e JOIN meter_set m ON m.id = e.meter_set_id
 CROSS JOIN LATERAL unnest(m.meter_version_ids, e.quantities) AS q (meter_version_id, quantity)
 WHERE {_MONTH_IDS} AND q.quantity <> 0
 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""  # noqa: S608  # our own text

_DIMENSION_TOTALS = DIMENSION_FACTS.format(where=_MONTH_IDS)


def _of_staged(statement: str) -> str:
    """As for the seal's records: named, so that no prepared statement reads the ledger instead."""
    return statement.replace("FROM usage_event e", "FROM pg_temp.usage_event e").replace(
        "JOIN usage_property p", "JOIN pg_temp.usage_property p"
    )


_STAGED_TOTALS = _of_staged(_TOTALS)
_STAGED_DIMENSION_TOTALS = _of_staged(_DIMENSION_TOTALS)

_CARRIED = {
    "property_tenant_id": "integer",
    "property_shape_id": "integer",
    "property_texts": "text[]",
}
"""Columns of an archive behind the ledger's: what an event carried; null if it carried nothing."""

_TOTAL_COLUMNS = (
    "tenant_id, bucket, meter_version_id, model_id, price_version_id, project_id, key_id, kind, "
    "run_id, quantity, events"
)


def months(connection: sa.Connection) -> list[date]:
    """Months that the database holds, oldest first."""
    rows = query(
        connection,
        "SELECT to_date(right(c.relname, 6), 'YYYYMM') AS month FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'usage_event'::regclass "
        "AND c.relname <> 'usage_event_kept' ORDER BY 1",
    )
    return [row.month for row in rows]


def month_content(connection: sa.Connection, month: date) -> MonthRow:
    """What a month holds now."""
    row = only(
        connection,
        "SELECT count(*) AS events, min(e.epoch) AS first_epoch, max(e.epoch) AS last_epoch "  # noqa: S608  # our own text
        f"FROM usage_event e WHERE {_MONTH_IDS}",
        month=month,
    )
    return MonthRow(month=month, **members(row))


def archived_columns(connection: sa.Connection) -> dict[str, str]:
    """PostgreSQL type by column of an archive: the ledger's, and of what events carried."""
    rows = query(
        connection,
        "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_attribute "
        "WHERE attrelid = 'public.usage_event'::regclass AND attnum > 0 AND NOT attisdropped "
        "ORDER BY attnum",
    )
    return {row.attname: row.kind for row in rows} | _CARRIED


def month_events(
    connection: sa.Connection, month: date, columns: Sequence[str], *, at_once: int
) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The events of a month by (epoch, id), `at_once` at a time; memory is bounded by that."""
    listed = ", ".join(
        column.replace("property_", "p.") if column in _CARRIED else f"e.{column}"
        for column in columns
    )
    rows = connection.execute(
        sa.text(
            f"SELECT {listed} FROM usage_event e LEFT JOIN usage_property p ON p.event_id = e.id "  # noqa: S608  # names of the catalog
            f"WHERE {_MONTH_IDS} ORDER BY e.epoch, e.id"
        ),
        {"month": month},
        execution_options={"stream_results": True, "yield_per": at_once},
    )
    for part in rows.partitions(at_once):
        yield [tuple(row) for row in part]


def insert_archive(connection: sa.Connection, archive: ArchiveRow) -> ArchiveRow:
    """Write an archive down, with what the month adds to the rollups; the row with its id."""
    values = asdict(archive)
    del values["id"]
    row = only(
        connection,
        "INSERT INTO usage_archive (month, ordinal, url, bytes, sha256, events, first_epoch, "
        "last_epoch, archived_at) VALUES (:month, :ordinal, :url, :bytes, :sha256, :events, "
        ":first_epoch, :last_epoch, :archived_at) RETURNING id",
        **values,
    )
    run(
        connection,
        f"INSERT INTO usage_archived_total (archive_id, {_TOTAL_COLUMNS}) "  # noqa: S608  # our own text
        f"SELECT :archive, t.* FROM ({_TOTALS}) t",
        archive=row.id,
        month=archive.month,
    )
    run(
        connection,
        "INSERT INTO usage_archived_dimension_total (archive_id, tenant_id, bucket, "  # noqa: S608  # our own text
        f"{DIMENSION_KEY}, quantity, events) SELECT :archive, t.* FROM ({_DIMENSION_TOTALS}) t",
        archive=row.id,
        month=archive.month,
    )
    return ArchiveRow(id=row.id, **values)


def archives(connection: sa.Connection, *, month: date | None = None) -> list[ArchiveRow]:
    """The newest archive of every month, or of one, oldest month first."""
    rows = query(
        connection,
        "SELECT DISTINCT ON (month) id, month, ordinal, url, bytes, sha256, events, first_epoch, "
        "last_epoch, archived_at FROM usage_archive "
        "WHERE CAST(:month AS date) IS NULL OR month = :month ORDER BY month, ordinal DESC",
        month=month,
    )
    return [ArchiveRow(**members(row, sha256=bytes(row.sha256))) for row in rows]


Totals = dict[tuple[Any, ...], tuple[Any, ...]]
"""(quantity, events) by the key of a rollup and a run, or by that of a rollup by dimension."""


def archived_totals(connection: sa.Connection, archive_id: int) -> Totals:
    """What the month added to the rollups, as it was when it was archived."""
    return _totals(
        connection,
        f"SELECT {_TOTAL_COLUMNS} FROM usage_archived_total WHERE archive_id = :archive",  # noqa: S608  # our own text
        f"SELECT tenant_id, bucket, {DIMENSION_KEY}, quantity, events "  # noqa: S608  # our own text
        "FROM usage_archived_dimension_total WHERE archive_id = :archive",
        archive=archive_id,
    )


def staged_totals(connection: sa.Connection, month: date) -> Totals:
    """As `archived_totals`, of the staged rows of a month."""
    return _totals(connection, _STAGED_TOTALS, _STAGED_DIMENSION_TOTALS, month=month)


def _totals(connection: sa.Connection, *statements: str, **parameters: object) -> Totals:
    return {
        tuple(row)[:-2]: tuple(row)[-2:]
        for statement in statements
        for row in query(connection, statement, **parameters)
    }


def stage_archived(connection: sa.Connection) -> None:
    """Shadow the usage ledger, for the rest of the transaction, with empty temporary tables."""
    for table in ("usage_event", "usage_property"):
        run(
            connection,
            f"CREATE TEMPORARY TABLE {table} (LIKE public.{table}) ON COMMIT DROP",
        )


def unstage_archived(connection: sa.Connection) -> None:
    """Let the ledger's names mean the ledger again."""
    run(connection, "DROP TABLE pg_temp.usage_event, pg_temp.usage_property")


def stage_leaves(connection: sa.Connection) -> None:
    """Make room for the leaves of archived events, for the rest of the transaction."""
    run(
        connection,
        "CREATE TEMPORARY TABLE archived_leaf (leaf bytea PRIMARY KEY) ON COMMIT DROP",
    )


def keep_leaves(connection: sa.Connection, leaves: Sequence[bytes]) -> None:
    """Remember leaves that were rebuilt from archived events."""
    run(
        connection,
        "INSERT INTO pg_temp.archived_leaf SELECT unnest(CAST(:leaves AS bytea[])) "
        "ON CONFLICT DO NOTHING",
        leaves=list(leaves),
    )


def is_kept_leaf(connection: sa.Connection, leaf: bytes) -> bool:
    """Whether a leaf was rebuilt from an archived event."""
    found = query(
        connection, "SELECT FROM pg_temp.archived_leaf WHERE leaf = CAST(:leaf AS bytea)", leaf=leaf
    )
    return bool(found)


def fill_staged(
    connection: sa.Connection, columns: Mapping[str, str], rows: Sequence[Sequence[Any]]
) -> None:
    """Replace the rows of the temporary tables by those of an archive with these columns."""
    # A temporary table is not vacuumed: what is deleted would be read over, batch after batch.
    run(connection, "TRUNCATE pg_temp.usage_event, pg_temp.usage_property")
    own = {name: kind for name, kind in columns.items() if name not in _CARRIED}
    copy_rows(connection, ("pg_temp", "usage_event"), own, [row[: len(own)] for row in rows])
    id_at = list(columns).index("id")
    carried = [(row[id_at], *row[len(own) :]) for row in rows if row[-1] is not None]
    kinds = {"event_id": "uuid"} | {
        name.removeprefix("property_"): kind for name, kind in _CARRIED.items()
    }
    copy_rows(connection, ("pg_temp", "usage_property"), kinds, carried)


def copy_rows(
    connection: sa.Connection,
    table: tuple[str, str],
    columns: Mapping[str, str],
    rows: Sequence[Sequence[Any]],
) -> None:
    """Copy rows into a table with these columns, PostgreSQL types by name."""
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(*table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(list(columns.values()))
        for row in rows:
            copy.write_row(row)


def horizon(connection: sa.Connection) -> datetime | None:
    """The oldest instant whose events are kept; None while nothing has left the database.

    An id that was minted before it, or a report of what happened before it, is refused (D7).
    """
    row = first(connection, "SELECT max(oldest_kept) AS oldest FROM usage_horizon")
    return None if row is None else row.oldest


def dropped_months(connection: sa.Connection) -> frozenset[date]:
    """Months whose events have left the database."""
    return frozenset(row.month for row in query(connection, "SELECT month FROM usage_horizon"))


def drop_month(connection: sa.Connection, month: date, *, now: datetime) -> int:
    """Detach and drop a month, as the maintainer; how many events it held.

    What the events carried for dimensions leaves with them, as do steps and failed attempts; the
    totals of all stay. The owner's functions refuse a month that is not archived as it is now, or
    not the oldest.
    """
    events: int = only(
        connection,
        "SELECT drop_usage_month(CAST(:month AS date), :now) AS events",
        month=month,
        now=now,
    ).events
    run(
        connection,
        "SELECT drop_property_month(CAST(:month AS date)), drop_detail_month(CAST(:month AS date))",
        month=month,
    )
    return events


def make_restored(connection: sa.Connection, month: date) -> str:
    """Make the table into which an archived month is read back, as the maintainer; its name."""
    run(connection, "SELECT drop_restored_usage(CAST(:month AS date))", month=month)
    return only(
        connection, "SELECT make_restored_usage(CAST(:month AS date)) AS name", month=month
    ).name


def drop_restored(connection: sa.Connection, month: date) -> None:
    """Remove the table of an archived month that was read back, as the maintainer."""
    run(connection, "SELECT drop_restored_usage(CAST(:month AS date))", month=month)
