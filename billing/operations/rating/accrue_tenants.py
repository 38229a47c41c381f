"""Post what billing periods of many tenants have earned: what `accrue_usage` posts, page by page.

Decides: for which periods there may be anything new; what is posted is decided by
`post_accruals`. Where nothing changed, nothing is written, and a page costs two reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.ledger.earning import EarnedOn
from billing.operations.rating.accrue_usage import earned_by, post_accruals
from billing.operations.rating.rate_period import RatedContract, RatedPeriod
from billing.operations.rating.rate_tenants import TenantPeriod, rate_tenants
from billing.store.accruals import accrued_of
from billing.store.invoices import lock_invoicing_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AccruedPeriod:
    """A billing period whose accruals are up to date.

    Attributes:
        posted: whether something was new.
    """

    rated: RatedPeriod
    posted: bool


def accrue_tenants(
    connection: sa.Connection, asked: Sequence[TenantPeriod], *, now: datetime
) -> tuple[AccruedPeriod, ...]:
    """Rate billing periods and post what is new, in the operator role's transaction.

    Args:
        asked: a page of a few hundred; their tenants are locked until commit.

    Returns:
        One for each period that was asked, in order.

    Raises:
        Conflict: events that a price asks for have left the database.
    """
    lock_invoicing_of(connection, (each.tenant.id for each in asked))
    before = accrued_of(
        connection,
        [(entry.contract.id, each.period.start) for each in asked for entry in each.bound],
    )
    accrued: list[AccruedPeriod] = []
    for rated in rate_tenants(connection, asked, until=now, explained=False):
        start = rated.period.start
        changed = any(
            _differs(contract, before.get((contract.bound.contract.id, start), {}))
            for contract in rated.contracts
        )
        if changed:
            post_accruals(connection, rated, now=now)
        accrued.append(AccruedPeriod(rated=rated, posted=changed))
    return tuple(accrued)


def _differs(contract: RatedContract, before: Mapping[EarnedOn, Decimal]) -> bool:
    earned = earned_by(contract)
    return any(
        earned.get(key, Decimal(0)) != before.get(key, Decimal(0))
        for key in earned.keys() | before.keys()
    )
