"""Table refused_record: journal records that the usage ledger can never take."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
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


def refuse(connection: sa.Connection, row: RefusedRow) -> None:
    """Set a record aside; a second time changes nothing."""
    run(
        connection,
        "INSERT INTO refused_record (event_id, kind, instance, segment, page_offset, reason, "
        "payload, refused_at) VALUES (:event_id, :kind, :instance, :segment, :page_offset, "
        ":reason, :payload, :refused_at) ON CONFLICT DO NOTHING",
        **asdict(row),
    )


def refused(connection: sa.Connection, *, limit: int) -> list[RefusedRow]:
    """Records that were set aside, newest first."""
    rows = query(
        connection,
        "SELECT event_id, kind, instance, segment, page_offset, reason, payload, refused_at "
        "FROM refused_record ORDER BY refused_at DESC, event_id LIMIT :limit",
        limit=limit,
    )
    return [RefusedRow(**members(row, payload=bytes(row.payload))) for row in rows]
