"""Attempts of operations that failed before the one that is billed, or void."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import sqlalchemy as sa

from billing.store.usage.kept_ids import kept


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt that used compute and bills nothing.

    Attributes:
        ordinal: 0 for the first of its operation.
        at: when it was dispatched.
    """

    operation_id: UUID
    ordinal: int
    at: datetime
    tenant_id: int
    model_id: int
    backend_id: int
    duration_us: int
    reason: str


def insert_attempts(connection: sa.Connection, rows: Sequence[AttemptRow]) -> None:
    """Record failed attempts; those that are known, or whose month has left, change nothing."""
    if rows := kept(connection, rows, attrgetter("operation_id")):
        connection.execute(
            sa.text(
                "INSERT INTO usage_attempt (operation_id, ordinal, at, tenant_id, model_id, "
                "backend_id, duration_us, reason) VALUES (:operation_id, :ordinal, :at, "
                ":tenant_id, :model_id, :backend_id, :duration_us, :reason) "
                "ON CONFLICT (operation_id, ordinal) DO NOTHING"
            ),
            [asdict(row) for row in rows],
        )
