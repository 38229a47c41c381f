"""Appends a batch of usage events exactly once, with its rollups, under one epoch.

Steps, all in the caller's transaction: copy the batch into a staging table; take the next epoch
under a lock that is held to commit, so that epochs become visible in order (L8); claim reported
ids in the key table (`reported_keys.py`) and insert the events that are new; add exactly those to
every level of the rollups. A batch that arrives twice changes nothing the second time (L3, L5).
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

from billing.metering.event_id import microseconds
from billing.store.database import first, only, run
from billing.store.usage.add_sums import add_to_levels
from billing.store.usage.dimensions import add_dimensions
from billing.store.usage.raw_counts import pack_counts
from billing.store.usage.reported_keys import CLAIM, Known, known_reports, source_ids
from billing.store.usage.staged_rows import (
    COLUMNS,
    REPORT_COLUMNS,
    Origin,
    Report,
    StagedRows,
    course_bytes,
    encoded_origin,
)

SHARD = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event to append. All ids are row ids; 0 means none.

    Attributes:
        quantities: one per meter of the meter set, in its order.
        raw_counts: the engine's own figures, one per path of the shape.
        source, foreign_id, body_hash: the reporter's identity of the event, or None if minted.
        run_id: the agent run that it was part of, in the words of the tenant.
        properties: (path, text) of what it carries for dimensions of its meters, by path.
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
    raw_counts: tuple[int, ...] = ()
    ttft_us: int = 0
    duration_us: int = 0
    source: str | None = None
    foreign_id: str | None = None
    body_hash: bytes | None = None
    run_id: str | None = None
    properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of a batch.

    Attributes:
        epoch: the epoch of this batch.
        accepted: ids of the events that were new.
        known: reported ids that were not new, by position in the batch.
    """

    epoch: int
    accepted: frozenset[UUID]
    known: dict[int, Known]


_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS usage_staging (
    id uuid, occurred_at timestamptz, tenant_id integer, project_id integer, key_id integer,
    model_id integer, backend_id integer, price_version_id integer, meter_set_id integer,
    raw_shape_id integer, ttft_us bigint, duration_us bigint, kind smallint, cause smallint,
    estimated boolean, quantities numeric[], raw_counts bytea, run_id text, ordinal integer,
    source integer, foreign_key uuid, foreign_id text, body_hash uuid
) ON COMMIT DELETE ROWS
"""

# The staged rows lie in the order of their ids. The ids come back as one value: a row each would
# take the driver longer than the insert takes the server.
_INSERT = f"""
INSERT INTO usage_event ({COLUMNS}, epoch)
SELECT {COLUMNS}, :epoch FROM usage_staging s
"""  # noqa: S608  # our own names
_INSERTED = """
 ON CONFLICT (id) DO NOTHING RETURNING id
) SELECT coalesce(string_agg(uuid_send(id), ''), '') AS ids FROM inserted
"""
_APPEND_MINTED = f"WITH inserted AS ({_INSERT}{_INSERTED}"
_APPEND_REPORTED = f"""
WITH claimed AS ({CLAIM}), inserted AS ({_INSERT}
     WHERE foreign_key IS NULL OR EXISTS (SELECT FROM claimed c WHERE c.event_id = s.id)
{_INSERTED}"""


def append(connection: sa.Connection, events: Sequence[EventRow]) -> Appended:
    """Append a batch as the ingest role; see the module for what that guarantees."""
    staged = _staged(events)
    epoch, accepted = append_staged(connection, staged)
    add_dimensions(connection, staged, accepted, epoch=epoch)
    return Appended(
        epoch=epoch,
        accepted=frozenset(UUID(bytes=id_) for id_ in accepted),
        known=_known(connection, staged, accepted),
    )


def append_reports(connection: sa.Connection, staged: StagedRows) -> dict[int, Known]:
    """Append a batch of reports that is encoded already; what `Appended.known` says of them."""
    epoch, accepted = append_staged(connection, staged)
    add_dimensions(connection, staged, accepted, epoch=epoch)
    return _known(connection, staged, accepted)


def append_operations(connection: sa.Connection, staged: StagedRows) -> list[bytes]:
    """Append operations of a proxy that are encoded already; ids of those that were new.

    Only what prices ask for is carried, and without it no dimension is looked for.
    """
    epoch, accepted = append_staged(connection, staged)
    if staged.properties:
        add_dimensions(connection, staged, accepted, epoch=epoch)
    return accepted


def append_staged(connection: sa.Connection, staged: StagedRows) -> tuple[int, list[bytes]]:
    """Append a batch that is encoded already: (its epoch, ids of the events that were new).

    It is split by no dimension yet.
    """
    run(connection, _STAGE)
    run(connection, "DELETE FROM usage_staging")
    _copy(connection, staged)
    epoch = take_epoch(connection)
    if staged.reported:
        sources = source_ids(connection, staged.sources)
        inserted = only(connection, _APPEND_REPORTED, epoch=epoch, sources=sources)
    else:
        inserted = only(connection, _APPEND_MINTED, epoch=epoch)
    accepted = _slices(bytes(inserted.ids))
    sums = staged.sums()
    if len(accepted) < len(staged):
        sums = staged.sums(frozenset(accepted).__contains__)
    add_to_levels(connection, sums, epoch=epoch)
    return epoch, accepted


def _known(
    connection: sa.Connection, staged: StagedRows, accepted: Sequence[bytes]
) -> dict[int, Known]:
    # Most batches are all new, and asking about each of their ids takes as long as claiming it.
    if not staged.reported or len(accepted) == len(staged):
        return {}
    return known_reports(connection, staged.sources)


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
    """Make the partitions for this month and the next ones; how many of events were missing."""
    run(
        connection,
        "SELECT ensure_property_partitions(:now, :months), ensure_detail_partitions(:now, :months)",
        now=now,
        months=months,
    )
    return only(
        connection, "SELECT ensure_usage_partitions(:now, :months) AS made", now=now, months=months
    ).made


def _staged(events: Sequence[EventRow]) -> StagedRows:
    staged = StagedRows(reported=any(event.foreign_id is not None for event in events))
    for ordinal, event in enumerate(events):
        report = None
        if event.source is not None and event.foreign_id is not None:
            assert event.body_hash is not None
            report = Report(ordinal, event.source, event.foreign_id, event.body_hash)
        staged.add(
            event.id.bytes,
            microseconds(event.occurred_at),
            encoded_origin(
                Origin(
                    tenant_id=event.tenant_id,
                    project_id=event.project_id,
                    key_id=event.key_id,
                    model_id=event.model_id,
                    backend_id=event.backend_id,
                    price_version_id=event.price_version_id,
                    meter_set_id=event.meter_set_id,
                    raw_shape_id=event.raw_shape_id,
                    kind=event.kind,
                    run_id=event.run_id or "",
                )
            ),
            course_bytes(event.cause, event.estimated, event.ttft_us, event.duration_us),
            event.quantities,
            pack_counts(event.raw_counts),
            report,
        )
        if event.properties:
            staged.properties[event.id.bytes] = event.properties
    return staged


def _copy(connection: sa.Connection, staged: StagedRows) -> None:
    raw = cast("psycopg.Connection[Any]", connection.connection.driver_connection)
    columns = f"{COLUMNS}, {REPORT_COLUMNS}" if staged.reported else COLUMNS
    with (
        raw.cursor() as cursor,
        cursor.copy(f"COPY usage_staging ({columns}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.write(staged.content())


def _slices(joined: bytes) -> list[bytes]:
    return [joined[place : place + 16] for place in range(0, len(joined), 16)]


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
