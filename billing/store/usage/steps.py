"""Which step of an agent's run a usage event belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from operator import attrgetter
from uuid import UUID

import sqlalchemy as sa

from billing.store.usage.kept_ids import kept


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """The ids that a request gave, in the words of its tenant; '' for none.

    Attributes:
        at: when the event happened.
    """

    event_id: UUID
    at: datetime
    tenant_id: int
    run_id: str
    step_id: str
    agent_id: str


def insert_steps(connection: sa.Connection, rows: Sequence[StepRow]) -> None:
    """Record steps; those that are known, or whose month has left, change nothing."""
    if rows := kept(connection, rows, attrgetter("event_id")):
        connection.execute(
            sa.text(
                "INSERT INTO usage_step (event_id, at, tenant_id, run_id, step_id, agent_id) "
                "VALUES (:event_id, :at, :tenant_id, :run_id, :step_id, :agent_id) "
                "ON CONFLICT (event_id) DO NOTHING"
            ),
            [asdict(row) for row in rows],
        )
