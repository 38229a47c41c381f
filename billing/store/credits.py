"""Tables credit_grant, credit_event, credit_balance and those of top-ups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditGrant, CreditScope, GrantKind, Rollover, TaxedAt
from billing.ledger.top_up import TopUp, TopUpPolicy, TopUpState
from billing.period import Period
from billing.store.database import first, members, only, query, run

_GRANT = """
SELECT g.*, b.used, b.expired, b.remaining
  FROM credit_grant g JOIN credit_balance b ON b.grant_id = g.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """A grant with its balance: granted = used + expired + remaining (C1)."""

    grant: CreditGrant
    used: Decimal
    expired: Decimal
    remaining: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class EarnedRow:
    """Posted revenue of one line on one local day of its tenant, as a positive amount."""

    contract_id: int
    period_start: datetime
    line_key: str
    day: date
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedRow:
    """What was applied of one grant to one contract's billing period, as a positive amount.

    Attributes:
        line_key: of the grant on an invoice.
        source: what it was granted for.
    """

    line_key: str
    source: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPolicy:
    """A top-up policy and the number of its version."""

    policy: TopUpPolicy
    version: int


def insert_grant(connection: sa.Connection, grant: CreditGrant, *, now: datetime) -> bool:
    """Store a grant; False if the tenant has one under this key already."""
    scope, rollover = grant.scope, grant.rollover
    return bool(
        run(
            connection,
            "INSERT INTO credit_grant (id, tenant_id, legal_entity_id, currency, amount, kind, "
            "taxed_at, paid_from, cost_basis, counts_toward_commitment, priority, starts_at, "
            "expires_at, meters, models, plans, rollover_fraction, rollover_max, recurs, series, "
            "rolled_from, source, idempotency_key, granted_at) "
            "VALUES (:id, :tenant, :entity, :currency, "
            ":amount, :kind, :taxed_at, :paid_from, :cost, :counts, :priority, :starts, :expires, "
            ":meters, :models, :plans, :fraction, :maximum, :recurs, :series, :rolled, :source, "
            ":key, :now) "
            "ON CONFLICT (tenant_id, idempotency_key) DO NOTHING",
            id=grant.id,
            tenant=grant.tenant_id,
            entity=grant.legal_entity_id,
            currency=grant.currency,
            amount=grant.amount,
            kind=grant.kind.value,
            taxed_at=grant.taxed_at.value if grant.taxed_at else None,
            paid_from=grant.paid_from.value if grant.paid_from else None,
            cost=grant.cost_basis,
            counts=grant.counts_toward_commitment,
            priority=grant.priority,
            starts=grant.starts_at,
            expires=grant.expires_at,
            meters=_listed(scope.meters),
            models=_listed(scope.models),
            plans=_listed(scope.plans),
            fraction=rollover.fraction if rollover else None,
            maximum=rollover.maximum if rollover else None,
            recurs=grant.recurs,
            series=grant.series,
            rolled=grant.rolled_from,
            source=grant.source,
            key=grant.idempotency_key,
            now=now,
        )
    )


def insert_event(
    connection: sa.Connection,
    *,
    event_id: UUID,
    grant: CreditGrant,
    kind: str,
    amount: Decimal,
    idempotency_key: str,
    line: EarnedRow | None = None,
    now: datetime,
) -> None:
    """Append to a grant's events; the database moves its balance and refuses one below zero."""
    run(
        connection,
        "INSERT INTO credit_event (id, grant_id, tenant_id, kind, amount, contract_id, "
        "period_start, line_key, day, idempotency_key, recorded_at) VALUES (:id, :grant, :tenant, "
        ":kind, :amount, :contract, :period, :line, :day, :key, :now)",
        id=event_id,
        grant=grant.id,
        tenant=grant.tenant_id,
        kind=kind,
        amount=amount,
        contract=line.contract_id if line else None,
        period=line.period_start if line else None,
        line=line.line_key if line else None,
        day=line.day if line else None,
        key=idempotency_key,
        now=now,
    )


def grant_by_key(connection: sa.Connection, *, tenant_id: int, key: str) -> GrantRow | None:
    """The tenant's grant under an idempotency key."""
    row = first(
        connection,
        f"{_GRANT} WHERE g.tenant_id = :tenant AND g.idempotency_key = :key",
        tenant=tenant_id,
        key=key,
    )
    return None if row is None else _grant_row(row)


def grant_by_id(connection: sa.Connection, grant_id: UUID) -> GrantRow | None:
    """A grant by its id."""
    row = first(connection, f"{_GRANT} WHERE g.id = :id", id=grant_id)
    return None if row is None else _grant_row(row)


def grants(
    connection: sa.Connection, *, tenant_id: int, currency: str | None = None, live: bool = False
) -> list[GrantRow]:
    """A tenant's grants, oldest first; with `live` only those of which something remains."""
    rows = query(
        connection,
        f"{_GRANT} WHERE g.tenant_id = :tenant "
        "AND (CAST(:currency AS text) IS NULL OR g.currency = :currency) "
        "AND (NOT :live OR b.remaining > 0) ORDER BY g.granted_at, g.id",
        tenant=tenant_id,
        currency=currency,
        live=live,
    )
    return [_grant_row(row) for row in rows]


def lapsed(connection: sa.Connection, *, before: datetime) -> list[tuple[UUID, int, str]]:
    """Expired grants of which something remains: (id, tenant, currency), by expiry."""
    rows = query(
        connection,
        "SELECT g.id, g.tenant_id, g.currency FROM credit_grant g "
        "JOIN credit_balance b ON b.grant_id = g.id "
        "WHERE g.expires_at <= :before AND b.remaining > 0 "
        "ORDER BY g.tenant_id, g.currency, g.expires_at, g.id",
        before=before,
    )
    return [(row.id, row.tenant_id, row.currency) for row in rows]


def recurring(connection: sa.Connection) -> list[CreditGrant]:
    """The first grants of every series that was not voided."""
    rows = query(
        connection,
        f"{_GRANT} WHERE g.recurs AND g.series IS NULL AND NOT EXISTS (SELECT FROM credit_event e "
        "WHERE e.grant_id = g.id AND e.kind = 'voided') ORDER BY g.tenant_id, g.id",
    )
    return [_grant_row(row).grant for row in rows]


def earned_by_day(
    connection: sa.Connection, *, tenant_id: int, currency: str, period: Period, zone: str
) -> list[EarnedRow]:
    """Revenue posted by line and local day on lines of billing periods that start in a period."""
    rows = query(
        connection,
        "SELECT p.contract_id, p.period_start, p.line_key, "
        "CAST(t.effective_at AT TIME ZONE :zone AS date) AS day, -sum(p.amount) AS amount "
        "FROM posting p JOIN account a ON a.id = p.account_id "
        "JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE a.code = :revenue AND a.tenant_id = :tenant AND a.currency = :currency "
        "AND p.period_start >= :start AND p.period_start < :end GROUP BY 1, 2, 3, 4 "
        "HAVING sum(p.amount) < 0",
        zone=zone,
        revenue=AccountCode.REVENUE.value,
        tenant=tenant_id,
        currency=currency,
        start=period.start,
        end=period.end,
    )
    return [EarnedRow(**members(row)) for row in rows]


def applied_by_day(
    connection: sa.Connection, *, tenant_id: int, currency: str, period: Period
) -> list[EarnedRow]:
    """What credit has paid so far, by line and day."""
    rows = query(
        connection,
        "SELECT e.contract_id, e.period_start, e.line_key, e.day, sum(e.amount) AS amount "
        "FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.kind = 'applied' AND e.tenant_id = :tenant AND g.currency = :currency "
        "AND e.period_start >= :start AND e.period_start < :end GROUP BY 1, 2, 3, 4",
        tenant=tenant_id,
        currency=currency,
        start=period.start,
        end=period.end,
    )
    return [EarnedRow(**members(row)) for row in rows]


def used_by_grant(
    connection: sa.Connection, *, contract_id: int, period_start: datetime
) -> list[UsedRow]:
    """What credit has paid of a contract's billing period so far, by grant, oldest first."""
    rows = query(
        connection,
        "SELECT 'credit.' || g.id AS line_key, g.source, sum(e.amount) AS amount "
        "FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.kind = 'applied' AND e.contract_id = :contract AND e.period_start = :start "
        "GROUP BY g.id ORDER BY g.granted_at, g.id",
        contract=contract_id,
        start=period_start,
    )
    return [UsedRow(**members(row)) for row in rows]


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


def _grant_row(row: sa.Row[Any]) -> GrantRow:
    rollover = None
    if row.rollover_fraction is not None:
        rollover = Rollover(fraction=row.rollover_fraction, maximum=row.rollover_max)
    grant = CreditGrant(
        id=row.id,
        tenant_id=row.tenant_id,
        legal_entity_id=row.legal_entity_id,
        currency=row.currency,
        amount=row.amount,
        kind=GrantKind(row.kind),
        taxed_at=TaxedAt(row.taxed_at) if row.taxed_at else None,
        paid_from=AccountCode(row.paid_from) if row.paid_from else None,
        cost_basis=row.cost_basis,
        counts_toward_commitment=row.counts_toward_commitment,
        priority=row.priority,
        starts_at=row.starts_at,
        expires_at=row.expires_at,
        scope=CreditScope(meters=_set(row.meters), models=_set(row.models), plans=_set(row.plans)),
        rollover=rollover,
        recurs=row.recurs,
        series=row.series,
        rolled_from=row.rolled_from,
        source=row.source,
        idempotency_key=row.idempotency_key,
    )
    return GrantRow(grant=grant, used=row.used, expired=row.expired, remaining=row.remaining)


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
