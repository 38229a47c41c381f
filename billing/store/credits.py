"""Tables credit_grant, credit_event and credit_balance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.account import AccountCode
from billing.ledger.credit_grant import CreditGrant, CreditScope, GrantKind, Rollover, TaxedAt
from billing.ledger.hold import CREDIT
from billing.store.credit_lines import Place
from billing.store.database import first, query, run

_GRANT = """
SELECT g.*, b.used, b.expired, b.remaining, b.version
  FROM credit_grant g JOIN credit_balance b ON b.grant_id = g.id AND b.tenant_id = g.tenant_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """A grant with its balance: granted = used + expired + remaining (C1).

    Attributes:
        version: how many events it has; the key of the next one is made of it, so that two
            writers who saw the same balance cannot both change it.
    """

    grant: CreditGrant
    used: Decimal
    expired: Decimal
    remaining: Decimal
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
    place: Place | None = None,
    invoice_id: UUID | None = None,
    now: datetime,
) -> None:
    """Append to a grant's events; the database moves its balance and refuses one below zero.

    Args:
        place: what credit was applied to, or restored from.
        invoice_id: what credit was redeemed on.
    """
    run(
        connection,
        "INSERT INTO credit_event (id, grant_id, tenant_id, kind, amount, contract_id, "
        "period_start, line_key, day, idempotency_key, recorded_at, invoice_id) VALUES (:id, "
        ":grant, :tenant, :kind, :amount, :contract, :period, :line, :day, :key, :now, :invoice)",
        id=event_id,
        grant=grant.id,
        tenant=grant.tenant_id,
        kind=kind,
        amount=amount,
        contract=place.contract_id if place else None,
        period=place.period_start if place else None,
        line=place.line_key if place else None,
        day=place.day if place else None,
        key=idempotency_key,
        invoice=invoice_id,
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


def lapsed(connection: sa.Connection, *, before: datetime) -> list[GrantRow]:
    """Expired grants of which something remains, by tenant, currency and expiry."""
    rows = query(
        connection,
        f"{_GRANT} WHERE g.expires_at <= :before AND b.remaining > 0 "
        "ORDER BY g.tenant_id, g.currency, g.expires_at, g.id",
        before=before,
    )
    return [_grant_row(row) for row in rows]


def was_voided(connection: sa.Connection, grant_id: UUID) -> bool:
    """Whether what remained of a grant was taken back at some time."""
    return bool(
        query(
            connection,
            "SELECT FROM credit_event WHERE grant_id = :grant AND kind = 'voided' LIMIT 1",
            grant=grant_id,
        )
    )


def recurring(connection: sa.Connection) -> list[CreditGrant]:
    """The first grants of every series that was not voided, in the order of limits to lock."""
    rows = query(
        connection,
        f"{_GRANT} JOIN spend_limit l ON l.tenant_id = g.tenant_id AND l.name = :name "
        "AND l.currency = g.currency WHERE g.recurs AND g.series IS NULL "
        "AND NOT EXISTS (SELECT FROM credit_event e "
        "WHERE e.grant_id = g.id AND e.kind = 'voided') ORDER BY l.id, g.id",
        name=CREDIT,
    )
    return [_grant_row(row).grant for row in rows]


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
    return GrantRow(
        grant=grant,
        used=row.used,
        expired=row.expired,
        remaining=row.remaining,
        version=row.version,
    )


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
