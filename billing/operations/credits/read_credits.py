"""What a tenant's credit is now, and how it moved, in either role's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext

import sqlalchemy as sa

from billing.ledger.hold import CREDIT, OpenHold, SpendLimit
from billing.money import EXACT, currency
from billing.period import Period
from billing.store import credit_lines
from billing.store import credits as store
from billing.store import holds as hold_store
from billing.store.credit_lines import MovementRow
from billing.store.credits import GrantRow
from billing.tenancy.tenant import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditView:
    """A tenant's credit.

    Attributes:
        balances: one per currency in which it ever had credit.
        grants: oldest first, used up ones too.
        holds: open ones, on credit and on other limits.
    """

    balances: list[SpendLimit]
    grants: list[GrantRow]
    holds: list[OpenHold]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """All of a tenant's credit in a currency over a period: opening plus movements is closing."""

    currency: str
    period: Period
    opening: Decimal
    movements: tuple[MovementRow, ...]
    closing: Decimal


def read_credit(connection: sa.Connection, *, tenant: Tenant, now: datetime) -> CreditView:
    """A tenant's credit as it stands."""
    granted = store.grants(connection, tenant_id=tenant.id)
    balances = [
        hold_store.limit(connection, tenant_id=tenant.id, name=CREDIT, currency=code, now=now)
        for code in sorted({row.grant.currency for row in granted})
    ]
    return CreditView(
        balances=[balance for balance in balances if balance is not None],
        grants=granted,
        holds=hold_store.open_holds(connection, tenant_id=tenant.id),
    )


def read_statement(
    connection: sa.Connection, *, tenant: Tenant, currency_code: str, period: Period
) -> Statement:
    """Every movement of a tenant's credit that was recorded in a period.

    Raises:
        InvalidInput: no such currency.
    """
    code = currency(currency_code).code
    opening = credit_lines.credit_before(
        connection, tenant_id=tenant.id, currency=code, instant=period.start
    )
    movements = tuple(
        credit_lines.movements(connection, tenant_id=tenant.id, currency=code, period=period)
    )
    with localcontext(EXACT):
        closing = sum((row.amount for row in movements), opening)
    return Statement(
        currency=code, period=period, opening=opening, movements=movements, closing=closing
    )
