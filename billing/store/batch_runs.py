"""Table batch_run: batches that a backend runs for a tenant, until every line of them is billed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import first, members, run


class BatchState(StrEnum):
    """Open until its lines are billed, or lost with what the backend no longer has."""

    OPEN = "open"
    BILLED = "billed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """A batch as it was submitted.

    Attributes:
        model_id: of the one model that its lines name; None where that is not known.
        price_version_id: in force when it was submitted.
        endpoint: the route that each of its lines is a request of, such as
            `/v1/chat/completions`.
        hold_id: of what it holds of the tenant's limits; None for none.
    """

    batch_id: str
    backend: str
    tenant_id: int
    project_id: int
    key_id: int
    model_id: int | None
    price_version_id: int
    endpoint: str
    input_file_id: str
    submitted_at: datetime
    hold_id: UUID | None = None


_COLUMNS = (
    "batch_id, backend, tenant_id, project_id, key_id, model_id, price_version_id, endpoint, "
    "input_file_id, submitted_at, hold_id"
)


def insert_run(connection: sa.Connection, batch: BatchRun) -> None:
    """Record a batch; the same one again changes nothing."""
    run(
        connection,
        f"INSERT INTO batch_run ({_COLUMNS}) "  # noqa: S608  # our own names
        "VALUES (:batch_id, :backend, :tenant_id, :project_id, :key_id, :model_id, "
        ":price_version_id, :endpoint, :input_file_id, :submitted_at, :hold_id) "
        "ON CONFLICT (backend, batch_id) DO NOTHING",
        **asdict(batch),
    )


def read_run(connection: sa.Connection, *, backend: str, batch_id: str) -> BatchRun | None:
    """A batch as it was submitted."""
    row = first(
        connection,
        f"SELECT {_COLUMNS} FROM batch_run "  # noqa: S608
        "WHERE backend = :backend AND batch_id = :batch_id",
        backend=backend,
        batch_id=batch_id,
    )
    return None if row is None else _batch(row)


def _batch(row: sa.Row[Any]) -> BatchRun:
    return BatchRun(**members(row))
