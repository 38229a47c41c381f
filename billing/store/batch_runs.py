"""Table batch_run: batches that a backend runs for a tenant, until every line of them is billed.

A batch is written down before its backend is asked to run it, under the id of the request that
asks; the backend's answer gives it its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import first, members, query, run


class BatchState(StrEnum):
    """Intended until its backend has taken it, or refused; open until its lines are billed, or
    lost with what the backend no longer has."""

    INTENDED = "intended"
    REFUSED = "refused"
    OPEN = "open"
    BILLED = "billed"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRun:
    """A batch as it was submitted.

    Attributes:
        batch_id: the backend's; until that is known, the id of the request that asks for it.
        model_id: of the one model that its lines name; None where that is not known.
        price_version_id: in force when it was submitted.
        endpoint: the route that each of its lines is a request of, such as
            `/v1/chat/completions`.
        hold_id: of what it holds of the tenant's credit; None for none.
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


def insert_run(
    connection: sa.Connection, batch: BatchRun, *, state: BatchState = BatchState.OPEN
) -> None:
    """Record a batch; the same one again changes nothing."""
    run(
        connection,
        f"INSERT INTO batch_run ({_COLUMNS}, state) "  # noqa: S608  # our own names
        "VALUES (:batch_id, :backend, :tenant_id, :project_id, :key_id, :model_id, "
        ":price_version_id, :endpoint, :input_file_id, :submitted_at, :hold_id, :state) "
        "ON CONFLICT (backend, batch_id) DO NOTHING",
        **asdict(batch),
        state=state,
    )


def name_intended(
    connection: sa.Connection, *, backend: str, request_id: str, batch_id: str
) -> bool:
    """Give a batch that was intended the id by which its backend runs it; False: it has one."""
    return bool(
        run(
            connection,
            "UPDATE batch_run SET batch_id = :batch_id, state = 'open' "
            "WHERE backend = :backend AND batch_id = :request_id AND state = 'intended'",
            backend=backend,
            request_id=request_id,
            batch_id=batch_id,
        )
    )


def refuse_intended(connection: sa.Connection, *, backend: str, request_id: str) -> BatchRun | None:
    """Note that a batch that was intended never ran; None: it is not intended any more."""
    row = first(
        connection,
        "UPDATE batch_run SET state = 'refused' "  # noqa: S608
        "WHERE backend = :backend AND batch_id = :request_id AND state = 'intended' "
        f"RETURNING {_COLUMNS}",
        backend=backend,
        request_id=request_id,
    )
    return None if row is None else _batch(row)


def intended_runs(connection: sa.Connection, *, before: datetime, most: int) -> Sequence[BatchRun]:
    """Batches of which it is not known, some time after they were asked for, whether they run."""
    rows = query(
        connection,
        f"SELECT {_COLUMNS} FROM batch_run WHERE state = 'intended' "  # noqa: S608
        "AND submitted_at <= :before ORDER BY submitted_at LIMIT :most",
        before=before,
        most=most,
    )
    return [_batch(row) for row in rows]


def named_of_input(
    connection: sa.Connection, *, backend: str, input_file_id: str
) -> frozenset[str]:
    """Ids of the batches of a file that are recorded under their backend's id."""
    rows = query(
        connection,
        "SELECT batch_id FROM batch_run WHERE backend = :backend "
        "AND input_file_id = :input_file_id AND state IN ('open', 'billed', 'lost')",
        backend=backend,
        input_file_id=input_file_id,
    )
    return frozenset(row.batch_id for row in rows)


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
