"""Holds: take, extend, post, void, expire. Each resolves at most once, whoever is first (L6).

A hold is on a tenant's credit (`CREDIT`) or on a limit with a capacity of its own. Only credit
without a scope backs holds: what a request will be charged for is not known while it runs.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.errors import InvalidInput, NotFound
from billing.ledger.hold import CREDIT, HoldAnswer, SpendLimit, require_amount, require_step
from billing.money import currency
from billing.period import require_utc
from billing.store import holds as store
from billing.tenancy.tenant import Tenant, require_slug


def set_limit(
    connection: sa.Connection,
    *,
    tenant: Tenant,
    name: str,
    currency_code: str,
    capacity: Decimal,
    now: datetime,
) -> SpendLimit:
    """Make a limit, or change its capacity; below what is held it refuses until holds end.

    Raises:
        InvalidInput: a name or capacity that cannot be used.
    """
    if require_slug(name, field="name") == CREDIT:
        raise InvalidInput("this name is the tenant's credit", field="name", remedy="grant credit")
    currency(currency_code)
    store.set_limit(
        connection,
        tenant_id=tenant.id,
        name=name,
        currency=currency_code,
        capacity=require_amount(capacity, zero=True),
    )
    return require_limit(connection, tenant=tenant, name=name, currency_code=currency_code, now=now)


def require_limit(
    connection: sa.Connection, *, tenant: Tenant, name: str, currency_code: str, now: datetime
) -> SpendLimit:
    """A limit as it stands.

    Raises:
        NotFound: the tenant has none of this name and currency.
    """
    found = store.limit(connection, tenant_id=tenant.id, name=name, currency=currency_code, now=now)
    if found is None:
        raise NotFound("no such limit", field="limit", remedy="grant credit, or set the limit")
    return found


def take_hold(
    connection: sa.Connection,
    *,
    hold_id: UUID,
    limit: SpendLimit,
    amount: Decimal,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Set an amount aside; the same id and amount again is the same hold (L3).

    Raises:
        Conflict: not that much is available.
        IdempotencyConflict: the id was used for another hold.
        InvalidInput: no amount, or an end that has passed.
    """
    if require_utc(expires_at, field="expires_at") <= now:
        raise InvalidInput("this end has passed", field="expires_at", remedy="choose a later one")
    require_step(
        store.take(
            connection,
            hold_id=hold_id,
            limit_id=limit.id,
            amount=require_amount(amount),
            expires_at=expires_at,
            now=now,
        )
    )


def extend_hold(
    connection: sa.Connection,
    *,
    hold_id: UUID,
    extension_id: UUID,
    limit: SpendLimit,
    more: Decimal,
    expires_at: datetime,
    now: datetime,
) -> None:
    """Add to an open hold, by nothing to move its end only; the same extension adds once (L3).

    Raises:
        Conflict: not that much is available, or the hold is resolved or expired.
        IdempotencyConflict: this extension of the hold was by another amount or end.
    """
    if require_utc(expires_at, field="expires_at") <= now:
        raise InvalidInput("this end has passed", field="expires_at", remedy="choose a later one")
    require_step(
        store.extend(
            connection,
            hold_id=hold_id,
            extension_id=extension_id,
            limit_id=limit.id,
            more=require_amount(more, zero=True),
            expires_at=expires_at,
            now=now,
        )
    )


def post_hold(
    connection: sa.Connection, *, hold_id: UUID, limit: SpendLimit, used: Decimal, now: datetime
) -> None:
    """Resolve a hold by what was used of it; the rest is free again.

    A hold past its end that nothing swept yet is still posted: the money was spent.

    Raises:
        Conflict: more than was held, or it is resolved otherwise.
        NotFound: no such hold.
    """
    require_step(
        store.resolve(
            connection,
            hold_id=hold_id,
            limit_id=limit.id,
            outcome=HoldAnswer.POSTED,
            used=require_amount(used, zero=True),
            now=now,
        )
    )


def void_hold(
    connection: sa.Connection, *, hold_id: UUID, limit: SpendLimit, now: datetime
) -> None:
    """Resolve a hold of which nothing was used.

    Raises:
        Conflict: it is resolved otherwise.
        NotFound: no such hold.
    """
    require_step(
        store.resolve(
            connection,
            hold_id=hold_id,
            limit_id=limit.id,
            outcome=HoldAnswer.VOIDED,
            used=Decimal(0),
            now=now,
        )
    )


def expire_holds(connection: sa.Connection, *, now: datetime) -> int:
    """Free every hold past its end; how many."""
    return store.expire(connection, now=now)
