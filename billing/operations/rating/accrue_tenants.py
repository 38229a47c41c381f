"""Post what billing periods of many tenants have earned: what `accrue_usage` posts, page by page.

Decides: that a page is read, and written, together; what is posted is decided by `accrual`. Where
nothing changed, nothing is written, and a page costs two reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.ledger.posting import Transaction
from billing.operations.rating.accrue_usage import accrual
from billing.operations.rating.rate_period import RatedPeriod
from billing.operations.rating.rate_tenants import TenantPeriod, rate_tenants
from billing.store.accruals import accrued_of
from billing.store.invoices import lock_invoicing_of
from billing.store.ledger_pages import post_many
from billing.store.tenancy import legal_entities


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
    entities = {each.slug: each.id for each in legal_entities(connection)}
    new: list[Transaction] = []
    accrued: list[AccruedPeriod] = []
    for rated in rate_tenants(connection, asked, until=now, explained=False):
        found = [
            accrual(
                rated,
                contract,
                before.get((contract.bound.contract.id, rated.period.start), {}),
                legal_entity_id=entities[rated.tenant.legal_entity],
                now=now,
            )
            for contract in rated.contracts
        ]
        changed = [each for each in found if each is not None]
        new += changed
        accrued.append(AccruedPeriod(rated=rated, posted=bool(changed)))
    post_many(connection, new, now=now)
    return tuple(accrued)
