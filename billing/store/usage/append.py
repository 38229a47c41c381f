"""Appends a batch of usage events exactly once, with its rollups, under one epoch.

Steps, all in the caller's transaction: copy the batch into a staging table; take the next epoch
under a lock that is held to commit, so that epochs become visible in order (L8); claim reported
ids in the key table; insert the events that are new and add them to the rollups, in one
statement. A batch that arrives twice changes nothing the second time (L3, L5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import psycopg
import sqlalchemy as sa

from billing.store.database import first, only, query, run

SHARD = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event to append. All ids are row ids; 0 means none.

    Attributes:
        quantities: one per meter of the meter set, in its order.
        raw_counts: the engine's own figures, one per path of the shape, or None.
        source, foreign_id, body_hash: the reporter's identity of the event, or None if minted.
    """

    id: UUID
    occurred_at: datetime
    tenant_id: int
    project_id: int
    key_id: int
    model_id: int
    backend_id: int
    price_version_id: int
    meter_set_id: int
    kind: int
    cause: int
    estimated: bool
    quantities: tuple[Decimal | int, ...]
    raw_shape_id: int = 0
    raw_counts: tuple[int, ...] | None = None
    ttft_us: int = 0
    duration_us: int = 0
    source: str | None = None
    foreign_id: str | None = None
    body_hash: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch.

    Attributes:
        epoch: the epoch of this batch.
        accepted: ids of the events that were new.
        known: for reported ids that were not new, by position in the batch: (id of the event
            that holds the fact, whether its body is the same).
    """

    epoch: int
    accepted: frozenset[UUID]
    known: dict[int, tuple[UUID, bool]]


_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS usage_staging (
    ordinal integer, id uuid, occurred_at timestamptz, tenant_id integer, project_id integer,
    key_id integer, model_id integer, backend_id integer, price_version_id integer,
    meter_set_id integer, raw_shape_id integer, ttft_us bigint, duration_us bigint, kind smallint,
    cause smallint, estimated boolean, quantities numeric[], raw_counts bigint[], source text,
    foreign_id text, body_hash bytea
) ON COMMIT DELETE ROWS
"""

_STAGED = (
    "ordinal, id, occurred_at, tenant_id, project_id, key_id, model_id, backend_id, "
    "price_version_id, meter_set_id, raw_shape_id, ttft_us, duration_us, kind, cause, estimated, "
    "quantities, raw_counts, source, foreign_id, body_hash"
)

_STAGED_TYPES = (
    "int4", "uuid", "timestamptz", "int4", "int4", "int4", "int4", "int4", "int4", "int4", "int4",
    "int8", "int8", "int2", "int2", "bool", "numeric[]", "int8[]", "text", "text", "bytea",
)  # fmt: skip

_APPEND = """
WITH claimed AS (
    INSERT INTO usage_key (tenant_id, source, foreign_id, event_id, body_hash)
    SELECT DISTINCT ON (tenant_id, source, foreign_id)
           tenant_id, source, foreign_id, id, body_hash
      FROM usage_staging WHERE foreign_id IS NOT NULL
     ORDER BY tenant_id, source, foreign_id, ordinal
    ON CONFLICT DO NOTHING
    RETURNING event_id
), inserted AS (
    INSERT INTO usage_event (id, occurred_at, epoch, tenant_id, project_id, key_id, model_id,
        backend_id, price_version_id, meter_set_id, raw_shape_id, ttft_us, duration_us, kind,
        cause, estimated, quantities, raw_counts)
    SELECT id, occurred_at, :epoch, tenant_id, project_id, key_id, model_id, backend_id,
        price_version_id, meter_set_id, raw_shape_id, ttft_us, duration_us, kind, cause,
        estimated, quantities, raw_counts
      FROM usage_staging s
     WHERE foreign_id IS NULL OR EXISTS (SELECT FROM claimed c WHERE c.event_id = s.id)
     ORDER BY id, ordinal
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), fresh AS (
    SELECT DISTINCT ON (s.id) s.* FROM usage_staging s JOIN inserted i ON i.id = s.id
     ORDER BY s.id, s.ordinal
), rolled AS (
    INSERT INTO usage_rollup AS r (tenant_id, bucket, meter_version_id, model_id,
        price_version_id, project_id, key_id, kind, quantity, events, epoch)
    SELECT f.tenant_id, date_bin('15 minutes', f.occurred_at, '1970-01-01Z'), q.meter_version_id,
        f.model_id, f.price_version_id, f.project_id, f.key_id, f.kind, sum(q.quantity), count(*),
        :epoch
      FROM fresh f JOIN meter_set m ON m.id = f.meter_set_id
     CROSS JOIN LATERAL unnest(m.meter_version_ids, f.quantities) AS q (meter_version_id, quantity)
     WHERE q.quantity <> 0
     GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
     ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (tenant_id, bucket, meter_version_id, model_id, price_version_id, project_id,
                 key_id, kind)
    DO UPDATE SET quantity = r.quantity + excluded.quantity,
                  events = r.events + excluded.events, epoch = excluded.epoch
)
SELECT id FROM inserted
"""

_KNOWN = """
SELECT s.ordinal, s.id, k.event_id, k.body_hash = s.body_hash AS same
  FROM usage_staging s
  JOIN usage_key k ON (k.tenant_id, k.source, k.foreign_id) = (s.tenant_id, s.source, s.foreign_id)
 WHERE s.foreign_id IS NOT NULL
"""


def append(connection: sa.Connection, events: Sequence[EventRow]) -> Appended:
    """Append a batch as the ingest role; see the module for what that guarantees."""
    run(connection, _STAGE)
    run(connection, "DELETE FROM usage_staging")
    _copy(connection, events)
    epoch = take_epoch(connection)
    accepted = frozenset(row.id for row in query(connection, _APPEND, epoch=epoch))
    known: dict[int, tuple[UUID, bool]] = {}
    if any(event.foreign_id is not None for event in events):
        for row in query(connection, _KNOWN):
            if row.event_id != row.id:
                known[row.ordinal] = (row.event_id, row.same)
    return Appended(epoch=epoch, accepted=accepted, known=known)


def take_epoch(connection: sa.Connection) -> int:
    """The next epoch; the lock on it is held to commit."""
    return only(
        connection,
        "UPDATE ledger_epoch SET epoch = epoch + 1 WHERE shard = :shard RETURNING epoch",
        shard=SHARD,
    ).epoch


def ensure_meter_set(connection: sa.Connection, meter_version_ids: Sequence[int]) -> int:
    """The id of a list of meters that events count together."""
    return _interned(connection, "meter_set", "meter_version_ids", "integer[]", meter_version_ids)


def ensure_usage_shape(connection: sa.Connection, paths: Sequence[str]) -> int:
    """The id of a list of paths into an engine's usage object."""
    return _interned(connection, "usage_shape", "paths", "text[]", paths)


def ensure_partitions(connection: sa.Connection, *, now: datetime, months: int = 3) -> int:
    """Make the partitions for this month and the next ones; how many were missing."""
    return only(
        connection, "SELECT ensure_usage_partitions(:now, :months) AS made", now=now, months=months
    ).made


def _copy(connection: sa.Connection, events: Sequence[EventRow]) -> None:
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    with (
        raw.cursor() as cursor,
        cursor.copy(f"COPY usage_staging ({_STAGED}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(_STAGED_TYPES)
        for ordinal, event in enumerate(events):
            copy.write_row(
                (
                    ordinal, event.id, event.occurred_at, event.tenant_id, event.project_id,
                    event.key_id, event.model_id, event.backend_id, event.price_version_id,
                    event.meter_set_id, event.raw_shape_id, event.ttft_us, event.duration_us,
                    event.kind, event.cause, event.estimated,
                    [Decimal(quantity) for quantity in event.quantities],
                    None if event.raw_counts is None else list(event.raw_counts),
                    event.source, event.foreign_id, event.body_hash,
                )
            )  # fmt: skip


def _interned(
    connection: sa.Connection, table: str, column: str, kind: str, members: Sequence[Any]
) -> int:
    found = f"SELECT id FROM {table} WHERE {column} = CAST(:members AS {kind})"  # noqa: S608  # our own names
    row = first(connection, found, members=list(members))
    if row is None:
        run(
            connection,
            f"INSERT INTO {table} ({column}) VALUES (CAST(:members AS {kind})) "  # noqa: S608  # our own names
            "ON CONFLICT DO NOTHING",
            members=list(members),
        )
        row = only(connection, found, members=list(members))
    return row.id
