"""Table plan_approval: which keys applied and approved plan versions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.store.database import members, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRow:
    """What one key did with a plan version: `applied` or `approved` it."""

    key_id: int
    act: str
    at: datetime


def insert_act(
    connection: sa.Connection, *, plan_version_id: int, key_id: int, act: str, now: datetime
) -> None:
    """Add what a key did."""
    run(
        connection,
        "INSERT INTO plan_approval (plan_version_id, key_id, act, at) "
        "VALUES (:plan, :key, :act, :now)",
        plan=plan_version_id,
        key=key_id,
        act=act,
        now=now,
    )


def acts_on(connection: sa.Connection, plan_version_id: int) -> list[ApprovalRow]:
    """What was done with a plan version, oldest first."""
    rows = query(
        connection,
        "SELECT key_id, act, at FROM plan_approval WHERE plan_version_id = :plan "
        "ORDER BY at, key_id",
        plan=plan_version_id,
    )
    return [ApprovalRow(**members(row)) for row in rows]
