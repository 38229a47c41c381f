"""What a tenant's credit is now: limits, grants and open holds, in either role's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.ledger.hold import CREDIT, OpenHold, SpendLimit
from billing.store import credits as store
from billing.store import holds as hold_store
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
