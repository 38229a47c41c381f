"""Tables parked_usage and parked_decision: reports that wait; and table journal_cursor.

A parked report stays for ever, so that its id answers the same when it is sent again; it waits
while no decision about it exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.errors import CursorMoved
from billing.store.database import first, members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedRow:
    """A reported event that nothing can count yet.

    Attributes:
        event_type: of the event that meters read, and `data`, what they read in it, as JSON; both
            None where meter and quantity say all.
    """

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
    event_type: str | None
    data: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedKeyRow:
    """What is known of a reporter's id that was parked once.

    Attributes:
        decision: `released` or `rejected`; None while it waits.
        reason: of the decision, or why it waits.
    """

    id: UUID
    source: str
    foreign_id: str
    body_hash: bytes
    decision: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """What became of a parked report; `event_id` of the event that holds it, if released."""

    parked_id: UUID
    tenant_id: int
    decision: str
    event_id: UUID | None
    reason: str
    actor: str
    decided_at: datetime


_PARKED = (
    "SELECT p.id, p.tenant_id, p.source, p.foreign_id, p.body_hash, p.meter, p.model, p.project, "
    "p.quantity, p.kind, p.occurred_at, p.received_at, p.reason, p.event_type, p.data "
    "FROM parked_usage p "
)
_WAITING = "NOT EXISTS (SELECT FROM parked_decision d WHERE d.parked_id = p.id)"


def park(connection: sa.Connection, rows: Sequence[ParkedRow]) -> None:
    """Keep reports that cannot be counted; a second report of the same id changes nothing."""
    if rows:
        # Sorted, because two batches that insert in opposite orders would deadlock.
        ordered = sorted(rows, key=lambda row: (row.tenant_id, row.source, row.foreign_id))
        connection.execute(
            sa.text(
                "INSERT INTO parked_usage (id, tenant_id, source, foreign_id, body_hash, meter, "
                "model, project, quantity, kind, occurred_at, received_at, reason, event_type, "
                "data) VALUES (:id, :tenant_id, :source, :foreign_id, :body_hash, :meter, :model, "
                ":project, :quantity, :kind, :occurred_at, :received_at, :reason, :event_type, "
                ":data) ON CONFLICT (tenant_id, source, foreign_id) DO NOTHING"
            ),
            [asdict(row) for row in ordered],
        )


def anything_parked(connection: sa.Connection, tenant_id: int) -> bool:
    """Whether a tenant ever had a parked report: most have none, and are asked no further."""
    sql = "SELECT FROM parked_usage WHERE tenant_id = :tenant LIMIT 1"
    return first(connection, sql, tenant=tenant_id) is not None


def parked_keys(
    connection: sa.Connection, *, tenant_id: int, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], ParkedKeyRow]:
    """Parked reports by (source, foreign id), those among `keys`, decided or not."""
    rows = query(
        connection,
        "SELECT p.id, p.source, p.foreign_id, p.body_hash, d.decision, "
        "coalesce(d.reason, p.reason) AS reason FROM parked_usage p "
        "JOIN (SELECT DISTINCT * FROM unnest(CAST(:sources AS text[]), CAST(:ids AS text[]))) "
        "AS k (source, foreign_id) USING (source, foreign_id) "
        "LEFT JOIN parked_decision d ON d.parked_id = p.id WHERE p.tenant_id = :tenant",
        tenant=tenant_id,
        sources=[source for source, _ in keys],
        ids=[foreign_id for _, foreign_id in keys],
    )
    return {
        (row.source, row.foreign_id): ParkedKeyRow(**members(row, body_hash=bytes(row.body_hash)))
        for row in rows
    }


def parked(connection: sa.Connection, *, tenant_id: int | None, limit: int) -> list[ParkedRow]:
    """Waiting reports of one tenant, or of everybody if None, oldest first."""
    rows = query(
        connection,
        f"{_PARKED} WHERE {_WAITING} AND (CAST(:tenant AS integer) IS NULL "
        "OR p.tenant_id = :tenant) ORDER BY p.received_at, p.id LIMIT :limit",
        tenant=tenant_id,
        limit=limit,
    )
    return [ParkedRow(**members(row, body_hash=bytes(row.body_hash))) for row in rows]


# A later version of a meter that reads another type has ended the one before it.
_COUNTABLE = (
    "EXISTS (SELECT FROM meter_version v WHERE v.effective_from <= p.occurred_at AND CASE "
    "WHEN p.event_type IS NULL THEN v.code = p.meter "
    "WHEN v.reading IS NULL THEN v.code = p.event_type "
    "ELSE v.reading->>'event_type' = p.event_type AND NOT EXISTS (SELECT FROM meter_version w "
    "WHERE w.code = v.code AND w.version > v.version AND w.effective_from <= p.occurred_at) END)"
)


def ready(connection: sa.Connection, *, until: datetime, limit: int) -> list[ParkedRow]:
    """Waiting reports that may be countable: a meter is in force, their time has come."""
    rows = query(
        connection,
        f"{_PARKED} WHERE {_WAITING} AND p.occurred_at <= :until AND {_COUNTABLE} "
        "ORDER BY p.tenant_id, p.received_at, p.id LIMIT :limit",
        until=until,
        limit=limit,
    )
    return [ParkedRow(**members(row, body_hash=bytes(row.body_hash))) for row in rows]


def parked_by_id(connection: sa.Connection, parked_id: UUID) -> ParkedRow | None:
    """One parked report, decided or not."""
    row = first(connection, f"{_PARKED} WHERE p.id = :id", id=parked_id)
    return None if row is None else ParkedRow(**members(row, body_hash=bytes(row.body_hash)))


def decide(connection: sa.Connection, row: DecisionRow) -> bool:
    """Record what becomes of a parked report; False if that was decided before."""
    inserted = run(
        connection,
        "INSERT INTO parked_decision (parked_id, tenant_id, decision, event_id, reason, actor, "
        "decided_at) VALUES (:parked_id, :tenant_id, :decision, :event_id, :reason, :actor, "
        ":decided_at) ON CONFLICT (parked_id) DO NOTHING",
        **asdict(row),
    )
    return inserted == 1


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


def unshipped(instance: str) -> CursorRow:
    """The cursor of a journal of which nothing has been shipped."""
    return CursorRow(instance=instance, segment=0, next_offset=0, finished=False)


def cursor(connection: sa.Connection, instance: str) -> CursorRow | None:
    """The cursor of a journal instance."""
    row = first(
        connection,
        "SELECT instance, segment, next_offset, finished FROM journal_cursor WHERE instance = :i",
        i=instance,
    )
    return None if row is None else CursorRow(**members(row))


def move_cursor(
    connection: sa.Connection, to: CursorRow, *, since: CursorRow, now: datetime
) -> None:
    """Move a cursor from where it was read, in the same transaction as the events that it passes.

    It waits for a move that is still under way, such as one whose answer its writer did not get.

    Raises:
        CursorMoved: it does not stand at `since`.
    """
    moved = first(
        connection,
        "INSERT INTO journal_cursor AS c (instance, segment, next_offset, finished, updated_at) "
        "SELECT :instance, :segment, :next_offset, :finished, :now "
        "WHERE (:since_segment, :since_offset) = (0, 0) "
        "OR EXISTS (SELECT FROM journal_cursor WHERE instance = :instance) "
        "ON CONFLICT (instance) DO UPDATE SET segment = excluded.segment, "
        "next_offset = excluded.next_offset, finished = excluded.finished, "
        "updated_at = excluded.updated_at WHERE (c.segment, c.next_offset, c.finished) "
        "= (:since_segment, :since_offset, :since_finished) RETURNING true AS moved",
        since_segment=since.segment,
        since_offset=since.next_offset,
        since_finished=since.finished,
        instance=to.instance,
        segment=to.segment,
        next_offset=to.next_offset,
        finished=to.finished,
        now=now,
    )
    if moved is None:
        raise CursorMoved(
            "the journal's cursor does not stand where it was read",
            field="instance",
            remedy="read the cursor, and ship from there",
        )


def mark_shipped(connection: sa.Connection, instances: Sequence[str], *, through: datetime) -> None:
    """Say that all that journals held durably at an instant is in the ledger."""
    run(
        connection,
        "INSERT INTO journal_cursor (instance, segment, next_offset, updated_at, shipped_through) "
        "SELECT i, 0, 0, :through, :through FROM unnest(CAST(:instances AS text[])) i ORDER BY i "
        "ON CONFLICT (instance) DO UPDATE SET shipped_through = excluded.shipped_through",
        instances=sorted(instances),
        through=through,
    )
