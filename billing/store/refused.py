"""Tables refused_record, refused_resolution: journal records that the usage ledger did not take,
and what was decided about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A journal record that was set aside.

    Attributes:
        kind: `usage` or `void`.
        page_offset: the record lies in this segment, in the page that begins here.
        reason: name of the database's refusal.
        payload: the record as the journal has it.
    """

    event_id: UUID
    kind: str
    instance: str
    segment: int
    page_offset: int
    reason: str
    payload: bytes
    refused_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionRow:
    """What was decided about a refused record, once and for good.

    Attributes:
        outcome: `booked` or `dismissed`.
        reason: why, in the words of who decided.
    """

    event_id: UUID
    kind: str
    outcome: str
    reason: str
    resolved_by: str
    resolved_at: datetime


def refuse(connection: sa.Connection, row: RefusedRow) -> None:
    """Set a record aside; a second time changes nothing."""
    run(
        connection,
        "INSERT INTO refused_record (event_id, kind, instance, segment, page_offset, reason, "
        "payload, refused_at) VALUES (:event_id, :kind, :instance, :segment, :page_offset, "
        ":reason, :payload, :refused_at) ON CONFLICT DO NOTHING",
        **asdict(row),
    )


_REFUSED = (
    "SELECT r.event_id, r.kind, r.instance, r.segment, r.page_offset, r.reason, r.payload, "
    "r.refused_at FROM refused_record r "
)
_OPEN = (
    "NOT EXISTS (SELECT FROM refused_resolution s "
    "WHERE s.event_id = r.event_id AND s.kind = r.kind) "
)


def refused(connection: sa.Connection, *, limit: int) -> list[RefusedRow]:
    """Records that were set aside and that nobody has decided about, newest first."""
    rows = query(
        connection,
        f"{_REFUSED} WHERE {_OPEN} ORDER BY r.refused_at DESC, r.event_id LIMIT :limit",
        limit=limit,
    )
    return [_refused(row) for row in rows]


def refused_of(connection: sa.Connection, event_id: UUID) -> list[RefusedRow]:
    """The records of an operation that were set aside, decided or not."""
    rows = query(connection, f"{_REFUSED} WHERE r.event_id = :id ORDER BY r.kind", id=event_id)
    return [_refused(row) for row in rows]


def resolve(connection: sa.Connection, row: ResolutionRow) -> bool:
    """Write a decision down; False if there is one already, which stays."""
    return bool(
        run(
            connection,
            "INSERT INTO refused_resolution (event_id, kind, outcome, reason, resolved_by, "
            "resolved_at) VALUES (:event_id, :kind, :outcome, :reason, :resolved_by, "
            ":resolved_at) ON CONFLICT DO NOTHING",
            **asdict(row),
        )
    )


def resolutions(connection: sa.Connection, event_id: UUID) -> dict[str, ResolutionRow]:
    """What was decided about the records of an operation, by kind."""
    rows = query(
        connection,
        "SELECT event_id, kind, outcome, reason, resolved_by, resolved_at "
        "FROM refused_resolution WHERE event_id = :id",
        id=event_id,
    )
    return {row.kind: ResolutionRow(**members(row)) for row in rows}


def _refused(row: sa.Row[Any]) -> RefusedRow:
    return RefusedRow(**members(row, payload=bytes(row.payload)))
