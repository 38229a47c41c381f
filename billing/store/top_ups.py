"""Tables top_up_policy, top_up and top_up_resolution."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.top_up import TopUp, TopUpPolicy, TopUpState
from billing.store.database import first, members, only, query, run


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """A top-up policy and the number of its version."""

    policy: TopUpPolicy
    version: int


def insert_policy(
    connection: sa.Connection, policy: TopUpPolicy, *, tenant_id: int, currency: str, now: datetime
) -> StoredPolicy:
    """Store the next version of a tenant's top-up policy, under the lock of its credit."""
    version = only(
        connection,
        "INSERT INTO top_up_policy SELECT :tenant, :currency, 1 + coalesce(max(version), 0), "
        ":threshold, :amount, :window, :count, :maximum, :cool_down, :now FROM top_up_policy "
        "WHERE tenant_id = :tenant AND currency = :currency RETURNING version",
        tenant=tenant_id,
        currency=currency,
        threshold=policy.threshold,
        amount=policy.amount,
        window=policy.window_ms,
        count=policy.count_max,
        maximum=policy.amount_max,
        cool_down=policy.cool_down_ms,
        now=now,
    ).version
    return StoredPolicy(policy=policy, version=version)


def policy(connection: sa.Connection, *, tenant_id: int, currency: str) -> StoredPolicy | None:
    """The newest version of a tenant's top-up policy."""
    row = first(
        connection,
        "SELECT version, threshold, amount, window_ms, count_max, amount_max, cool_down_ms "
        "FROM top_up_policy WHERE tenant_id = :tenant AND currency = :currency "
        "ORDER BY version DESC LIMIT 1",
        tenant=tenant_id,
        currency=currency,
    )
    if row is None:
        return None
    terms = members(row)
    version = terms.pop("version")
    return StoredPolicy(policy=TopUpPolicy(**terms), version=version)


def policy_owners(connection: sa.Connection) -> list[tuple[int, str]]:
    """Tenants and currencies that have a top-up policy."""
    rows = query(connection, "SELECT DISTINCT tenant_id, currency FROM top_up_policy ORDER BY 1, 2")
    return [(row.tenant_id, row.currency) for row in rows]


def insert_top_up(
    connection: sa.Connection,
    stored: StoredPolicy,
    *,
    top_up_id: UUID,
    tenant_id: int,
    currency: str,
    now: datetime,
) -> None:
    """Store a requested top-up."""
    run(
        connection,
        "INSERT INTO top_up (id, tenant_id, currency, amount, policy_version, requested_at) "
        "VALUES (:id, :tenant, :currency, :amount, :version, :now)",
        id=top_up_id,
        tenant=tenant_id,
        currency=currency,
        amount=stored.policy.amount,
        version=stored.version,
        now=now,
    )


def top_ups(connection: sa.Connection, *, tenant_id: int, currency: str) -> list[TopUp]:
    """A tenant's top-ups in one currency, newest first."""
    rows = query(
        connection,
        "SELECT t.id, t.amount, t.requested_at, coalesce(r.outcome, 'requested') AS state, "
        "r.resolved_at FROM top_up t LEFT JOIN top_up_resolution r ON r.top_up_id = t.id "
        "WHERE t.tenant_id = :tenant AND t.currency = :currency ORDER BY t.requested_at DESC, t.id",
        tenant=tenant_id,
        currency=currency,
    )
    return [TopUp(**members(row, state=TopUpState(row.state))) for row in rows]


def resolve_top_up(
    connection: sa.Connection, top_up_id: UUID, *, grant_id: UUID | None, now: datetime
) -> bool:
    """Record a top-up as paid by a grant, or declined; False if it is resolved or unknown."""
    return bool(
        run(
            connection,
            "INSERT INTO top_up_resolution (top_up_id, tenant_id, outcome, grant_id, resolved_at) "
            "SELECT id, tenant_id, CASE WHEN CAST(:grant AS uuid) IS NULL THEN 'declined' "
            "ELSE 'paid' END, :grant, :now FROM top_up WHERE id = :id "
            "ON CONFLICT (top_up_id) DO NOTHING",
            id=top_up_id,
            grant=grant_id,
            now=now,
        )
    )


def top_up_owner(connection: sa.Connection, top_up_id: UUID) -> tuple[int, str, Decimal] | None:
    """Whose a top-up is, its currency and its amount."""
    row = first(
        connection,
        "SELECT tenant_id, currency, amount FROM top_up WHERE id = :id",
        id=top_up_id,
    )
    return None if row is None else (row.tenant_id, row.currency, row.amount)


def paid_by(connection: sa.Connection, top_up_id: UUID) -> UUID | None:
    """The grant that a resolved top-up became; None: it was declined."""
    return only(
        connection,
        "SELECT grant_id FROM top_up_resolution WHERE top_up_id = :id",
        id=top_up_id,
    ).grant_id
