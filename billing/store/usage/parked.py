"""Table parked_usage: reported events that wait for a decision, and table journal_cursor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import first, members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRow:
    """A reported event that nothing can count yet."""

    id: UUID
    tenant_id: int
    source: str
    foreign_id: str
    body_hash: bytes
    meter: str
    model: str | None
    project: str | None
    quantity: Decimal
    kind: int
    occurred_at: datetime
    received_at: datetime
    reason: str


def park(connection: sa.Connection, row: ParkedRow) -> None:
    """Keep a report that cannot be counted; a second report of the same id changes nothing."""
    run(
        connection,
        "INSERT INTO parked_usage (id, tenant_id, source, foreign_id, body_hash, meter, model, "
        "project, quantity, kind, occurred_at, received_at, reason) VALUES (:id, :tenant_id, "
        ":source, :foreign_id, :body_hash, :meter, :model, :project, :quantity, :kind, "
        ":occurred_at, :received_at, :reason) ON CONFLICT (tenant_id, source, foreign_id) "
        "DO NOTHING",
        **{name: getattr(row, name) for name in row.__dataclass_fields__},
    )


def parked(connection: sa.Connection, *, tenant_id: int | None, limit: int) -> list[ParkedRow]:
    """Parked reports of one tenant, or of everybody if None, oldest first."""
    rows = query(
        connection,
        "SELECT id, tenant_id, source, foreign_id, body_hash, meter, model, project, quantity, "
        "kind, occurred_at, received_at, reason FROM parked_usage "
        "WHERE CAST(:tenant AS integer) IS NULL OR tenant_id = :tenant "
        "ORDER BY received_at, id LIMIT :limit",
        tenant=tenant_id,
        limit=limit,
    )
    return [ParkedRow(**members(row, body_hash=bytes(row.body_hash))) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class CursorRow:
    """How far a journal instance has been shipped.

    Attributes:
        segment: number of the segment that is read next, from `next_offset` bytes on.
        finished: its owner is gone and everything in it is in the ledger.
    """

    instance: str
    segment: int
    next_offset: int
    finished: bool


def cursor(connection: sa.Connection, instance: str) -> CursorRow | None:
    """The cursor of a journal instance."""
    row = first(
        connection,
        "SELECT instance, segment, next_offset, finished FROM journal_cursor WHERE instance = :i",
        i=instance,
    )
    return None if row is None else CursorRow(**members(row))


def move_cursor(connection: sa.Connection, to: CursorRow, *, now: datetime) -> None:
    """Move a cursor, in the same transaction as the events that it has passed."""
    run(
        connection,
        "INSERT INTO journal_cursor (instance, segment, next_offset, finished, updated_at) "
        "VALUES (:instance, :segment, :next_offset, :finished, :now) "
        "ON CONFLICT (instance) DO UPDATE SET segment = excluded.segment, "
        "next_offset = excluded.next_offset, finished = excluded.finished, "
        "updated_at = excluded.updated_at",
        instance=to.instance,
        segment=to.segment,
        next_offset=to.next_offset,
        finished=to.finished,
        now=now,
    )
