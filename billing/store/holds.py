"""Tables spend_limit, hold_event, open_hold: holds, and the hot row of each limit.

Every step of a hold is one call of a function of the schema, which takes the limit's row first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import sqlalchemy as sa

from billing.admission.limit import Unit, Window
from billing.ledger.hold import CREDIT, HoldAnswer, OpenHold, SpendLimit
from billing.store.database import first, members, only, query, run


def set_limit(
    connection: sa.Connection, *, tenant_id: int, name: str, currency: str, capacity: Decimal
) -> None:
    """Make a limit, or give it another capacity; open holds stay."""
    run(
        connection,
        "INSERT INTO spend_limit (tenant_id, name, currency, capacity) "
        "VALUES (:tenant, :name, :currency, :capacity) "
        "ON CONFLICT (tenant_id, name, currency) DO UPDATE SET capacity = EXCLUDED.capacity",
        tenant=tenant_id,
        name=name,
        currency=currency,
        capacity=capacity,
    )


NO_CURRENCY = "XXX"
"""ISO 4217 for transactions in which no currency is involved."""


def define_limit(
    connection: sa.Connection,
    *,
    tenant_id: int,
    name: str,
    unit: Unit,
    span: Window,
    currency: str | None,
    capacity: Decimal,
    project_id: int | None,
    key_id: int | None,
    model_id: int | None,
    hard: bool,
    shadow: bool,
) -> int:
    """Make a limit of any kind; one of this name gets the capacity and kind, and lives. Its id."""
    return only(
        connection,
        "INSERT INTO spend_limit (tenant_id, name, currency, capacity, unit, span, project_id, "
        "key_id, model_id, hard, shadow) VALUES (:tenant, :name, :currency, :capacity, :unit, "
        ":span, :project, :key, :model, :hard, :shadow) "
        "ON CONFLICT (tenant_id, name, currency) DO UPDATE SET capacity = EXCLUDED.capacity, "
        "hard = EXCLUDED.hard, shadow = EXCLUDED.shadow, ended_at = NULL RETURNING id",
        tenant=tenant_id,
        name=name,
        currency=currency or NO_CURRENCY,
        capacity=capacity,
        unit=unit.value,
        span=span.value,
        project=project_id,
        key=key_id,
        model=model_id,
        hard=hard,
        shadow=shadow,
    ).id


def model_ids(connection: sa.Connection, name: str | None) -> dict[str, int]:
    """The row id of a model, by its name; empty if there is none."""
    row = first(connection, "SELECT id, name FROM model WHERE name = :name", name=name)
    return {} if row is None else {row.name: row.id}


def ensure_credit(connection: sa.Connection, *, tenant_id: int, currency: str) -> None:
    """Make the limit that is a tenant's credit, for a tenant without any yet."""
    run(
        connection,
        "INSERT INTO spend_limit (tenant_id, name, currency) VALUES (:tenant, :name, :currency) "
        "ON CONFLICT (tenant_id, name, currency) DO NOTHING",
        tenant=tenant_id,
        name=CREDIT,
        currency=currency,
    )


def ensure_credits(connection: sa.Connection, currencies: Mapping[int, str]) -> dict[int, int]:
    """Row ids of the limits that are tenants' credit, by tenant; those without any get theirs.

    Args:
        currencies: of the credit, by tenant.
    """
    wanted = (
        "unnest(CAST(:tenants AS integer[]), CAST(:currencies AS text[])) "
        "AS w (tenant_id, currency)"
    )
    found = (
        f"SELECT tenant_id, id FROM spend_limit JOIN {wanted} "  # noqa: S608  # our own text
        "USING (tenant_id, currency) WHERE name = :name"
    )
    asked = {"tenants": list(currencies), "currencies": list(currencies.values()), "name": CREDIT}
    ids = {row.tenant_id: row.id for row in query(connection, found, **asked)}
    if len(ids) == len(currencies):
        return ids
    run(
        connection,
        "INSERT INTO spend_limit (tenant_id, name, currency) "  # noqa: S608  # our own text
        f"SELECT tenant_id, :name, currency FROM {wanted} ORDER BY tenant_id "
        "ON CONFLICT (tenant_id, name, currency) DO NOTHING",
        **asked,
    )
    return {row.tenant_id: row.id for row in query(connection, found, **asked)}


def limit(
    connection: sa.Connection, *, tenant_id: int, name: str, currency: str, now: datetime
) -> SpendLimit | None:
    """A limit as it stands; expired holds still count until they are swept or needed."""
    row = first(
        connection,
        "SELECT id, tenant_id, name, currency, capacity, held, spent, "
        "limit_available(id, :now) AS available FROM spend_limit "
        "WHERE tenant_id = :tenant AND name = :name AND currency = :currency",
        tenant=tenant_id,
        name=name,
        currency=currency,
        now=now,
    )
    return None if row is None else SpendLimit(**members(row))


def lock_credits(
    connection: sa.Connection, tenant_ids: Iterable[int]
) -> dict[tuple[int, str], int]:
    """Take all credit of tenants until commit, before anything that reduces it.

    The order in which a transaction takes its locks, or two of them deadlock:

    1. the invoicing of tenants (`lock_invoicing_of`), in the order of their ids;
    2. limits, credit among them, in the order of their rows' ids: those of the tenants that it is
       about, here, at once, and no other's later;
    3. accounts, as postings are sorted (`ledger.post`): those that tenants share come last.

    What a tenant earned is posted before 2: nobody posts on those accounts without its 1.

    Returns:
        Row ids of the limits, by tenant and currency.
    """
    rows = query(
        connection,
        "SELECT id, tenant_id, currency FROM spend_limit "
        "WHERE tenant_id = ANY(CAST(:tenants AS integer[])) AND name = :name "
        "ORDER BY id FOR UPDATE",
        tenants=sorted(set(tenant_ids)),
        name=CREDIT,
    )
    return {(row.tenant_id, row.currency): row.id for row in rows}


def take(
    connection: sa.Connection,
    *,
    hold_id: UUID,
    limit_id: int,
    amount: Decimal,
    expires_at: datetime,
    now: datetime,
) -> HoldAnswer:
    """Take a hold if that much is available."""
    answer = only(
        connection,
        "SELECT take_hold(:hold, :limit, :amount, :until, :now) AS answer",
        hold=hold_id,
        limit=limit_id,
        amount=amount,
        until=expires_at,
        now=now,
    ).answer
    return HoldAnswer(answer)


def extend(
    connection: sa.Connection,
    *,
    hold_id: UUID,
    extension_id: UUID,
    limit_id: int,
    more: Decimal,
    expires_at: datetime,
    now: datetime,
) -> HoldAnswer:
    """Add to an open hold and move its end."""
    answer = only(
        connection,
        "SELECT extend_hold(:hold, :extension, :limit, :more, :until, :now) AS answer",
        hold=hold_id,
        extension=extension_id,
        limit=limit_id,
        more=more,
        until=expires_at,
        now=now,
    ).answer
    return HoldAnswer(answer)


def resolve(
    connection: sa.Connection,
    *,
    hold_id: UUID,
    limit_id: int,
    outcome: HoldAnswer,
    used: Decimal,
    now: datetime,
) -> HoldAnswer:
    """Post or void an open hold; what is not used is free again."""
    answer = only(
        connection,
        "SELECT resolve_hold(:hold, :limit, :outcome, :used, :now) AS answer",
        hold=hold_id,
        limit=limit_id,
        outcome=outcome.value,
        used=used,
        now=now,
    ).answer
    return HoldAnswer(answer)


def limit_of(connection: sa.Connection, *, hold_id: UUID) -> int | None:
    """Row id of the limit that a hold was taken on; None: there is no such hold."""
    row = first(
        connection,
        "SELECT limit_id FROM hold_event WHERE hold_id = :hold AND ordinal = 0",
        hold=hold_id,
    )
    return None if row is None else row.limit_id


def credit_standing(
    connection: sa.Connection, limit_id: int, *, now: datetime
) -> tuple[Decimal, Decimal, str]:
    """What is left of a credit, what is spent, held or leased of it, and its currency."""
    row = only(
        connection,
        "SELECT limit_available(id, :now) AS left, spent + held + leased AS used, currency "
        "FROM spend_limit WHERE id = :limit",
        limit=limit_id,
        now=now,
    )
    return row.left, row.used, row.currency


def expire(connection: sa.Connection, *, now: datetime) -> int:
    """Free every hold past its end; how many."""
    rows = query(
        connection,
        "SELECT DISTINCT limit_id FROM open_hold WHERE expires_at <= :now ORDER BY 1",
        now=now,
    )
    return sum(expire_on(connection, row.limit_id, now=now) for row in rows)


def expire_on(connection: sa.Connection, limit_id: int, *, now: datetime) -> int:
    """Free the holds past their end on one limit; how many."""
    return only(
        connection,
        "SELECT expire_open_holds(:limit, :now) AS freed",
        limit=limit_id,
        now=now,
    ).freed


def settle(connection: sa.Connection, limit_id: int, *, through: datetime) -> Decimal:
    """Count what was posted before an instant as settled by grants; how much that was."""
    return only(
        connection,
        "SELECT settle_holds(:limit, :through) AS settled",
        limit=limit_id,
        through=through,
    ).settled


def open_holds(connection: sa.Connection, *, tenant_id: int) -> list[OpenHold]:
    """A tenant's holds that are not resolved, oldest id first."""
    rows = query(
        connection,
        "SELECT h.hold_id AS id, l.name AS limit, l.currency, h.amount, h.expires_at "
        "FROM open_hold h JOIN spend_limit l ON l.id = h.limit_id "
        "WHERE h.tenant_id = :tenant ORDER BY h.hold_id",
        tenant=tenant_id,
    )
    return [OpenHold(**members(row)) for row in rows]
