"""What the database knows of journals and mirrors, for who compares it with what lies outside."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import members, only, query
from billing.store.usage.parked import CursorRow


def unknown_outcomes(connection: sa.Connection, ids: Sequence[UUID]) -> set[UUID]:
    """Which of these operations the ledger knows nothing of: no event, no scrap, not refused."""
    rows = query(
        connection,
        "SELECT w.id FROM unnest(CAST(:ids AS uuid[])) AS w (id) "
        "WHERE NOT EXISTS (SELECT FROM usage_event e WHERE e.id = w.id) "
        "AND NOT EXISTS (SELECT FROM scrap_attempt s WHERE s.id = w.id) "
        "AND NOT EXISTS (SELECT FROM refused_record r WHERE r.event_id = w.id) "
        "AND w.id >= coalesce((SELECT first_event_id(max(oldest_kept)) FROM usage_horizon), w.id)",
        ids=list(ids),
    )
    return {row.id for row in rows}


def cursors(connection: sa.Connection) -> dict[str, CursorRow]:
    """How far each journal instance was shipped."""
    rows = query(connection, "SELECT instance, segment, next_offset, finished FROM journal_cursor")
    return {row.instance: CursorRow(**members(row)) for row in rows}


def unfinished_mirrors(connection: sa.Connection) -> int:
    """Issued invoices whose mirror the database does not know to be finished."""
    return only(
        connection, "SELECT count(*) AS found FROM invoice_mirror WHERE state <> 'finalized'"
    ).found
