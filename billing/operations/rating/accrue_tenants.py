"""Post what billing periods of many tenants have earned: what `accrue_usage` posts, page by page.

Decides: that a page is read, and written, together, and that no line is made where the amounts are
known without; what is posted is decided by `accrual`. Where nothing changed, nothing is written,
and a page costs a few reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

import sqlalchemy as sa

from billing.errors import Conflict
from billing.ledger.account import AccountCode
from billing.ledger.earning import EarnedOn
from billing.ledger.posting import Transaction
from billing.metering.usage_event import EventKind
from billing.money import to_ledger
from billing.operations.rating.accrue_usage import accrual, accrual_of
from billing.operations.rating.rate_period import RatedPeriod, rate_usage, share_of
from billing.operations.rating.rate_tenants import TenantPeriod, read_sums
from billing.period import Period
from billing.rating.compiled import compiled
from billing.rating.line import UnratedQuantity
from billing.rating.plainly import PlainUse, plain_amounts
from billing.store.accruals import ContractPeriod, accrued_of
from billing.store.invoices import lock_invoicing_of
from billing.store.ledger_pages import post_many
from billing.store.tenancy import legal_entities
from billing.store.usage.of_tenants import PeriodSums
from billing.store.usage.read import PeriodUsage
from billing.tenancy.tenant import Tenant

_BILLED = EventKind.BILLED.value

_Before: TypeAlias = Mapping[ContractPeriod, Mapping[EarnedOn, Decimal]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccruedPeriod:
    """A billing period whose accruals are up to date.

    Attributes:
        posted: whether something was new.
        unrated: usage that no charge prices (R5).
        used: what was rated, and `until` when.
    """

    asked: TenantPeriod
    posted: bool
    unrated: tuple[UnratedQuantity, ...]
    used: PeriodSums | PeriodUsage
    until: datetime

    @property
    def tenant(self) -> Tenant:
        """Whose it is."""
        return self.asked.tenant

    @property
    def period(self) -> Period:
        """Which it is."""
        return self.asked.period

    @property
    def rated(self) -> RatedPeriod:
        """Its lines, made when they are asked for: few are, of all that is posted."""
        return _rated(self.asked, self.used, until=self.until)


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
    for each, used in read_sums(connection, asked, until=now):
        if isinstance(used, Conflict):
            raise used
        entity = entities[each.tenant.legal_entity]
        unrated: tuple[UnratedQuantity, ...] = ()
        earned = _earned_plainly(each, used) if isinstance(used, PeriodSums) else None
        if earned is not None:
            found = _plain_accrual(each, used, earned, before, legal_entity_id=entity, now=now)
        else:
            rated = _rated(each, used, until=now)
            unrated = rated.unrated
            found = _accruals(rated, before, legal_entity_id=entity, now=now)
        changed = [transaction for transaction in found if transaction is not None]
        new += changed
        accrued.append(
            AccruedPeriod(asked=each, posted=bool(changed), unrated=unrated, used=used, until=now)
        )
    post_many(connection, new, now=now)
    return tuple(accrued)


def _rated(asked: TenantPeriod, used: PeriodSums | PeriodUsage, *, until: datetime) -> RatedPeriod:
    return rate_usage(
        tenant=asked.tenant,
        period=asked.period,
        bound=asked.bound,
        used=used.usage() if isinstance(used, PeriodSums) else used,
        until=until,
        explained=False,
    )


def _accruals(
    rated: RatedPeriod, before: _Before, *, legal_entity_id: int, now: datetime
) -> list[Transaction | None]:
    return [
        accrual(
            rated,
            contract,
            before.get((contract.bound.contract.id, rated.period.start), {}),
            legal_entity_id=legal_entity_id,
            now=now,
        )
        for contract in rated.contracts
    ]


def _plain_accrual(
    asked: TenantPeriod,
    used: PeriodSums | PeriodUsage,
    earned: Mapping[EarnedOn, Decimal],
    before: _Before,
    *,
    legal_entity_id: int,
    now: datetime,
) -> list[Transaction | None]:
    contract = asked.bound[0].contract
    transaction = accrual_of(
        earned,
        before.get((contract.id, asked.period.start), {}),
        contract=contract,
        period=asked.period,
        watermark=used.watermark,
        legal_entity_id=legal_entity_id,
        now=now,
    )
    return [transaction]


def _earned_plainly(asked: TenantPeriod, used: PeriodSums) -> dict[EarnedOn, Decimal] | None:
    """What the lines of the only contract have earned; None where they have to be made to know."""
    if len(asked.bound) != 1:
        return None
    (entry,) = asked.bound
    contract_id = entry.contract.id
    uses: list[PlainUse] = []
    for meter, model, kind, contract_ids, informational, quantity in used.sums():
        if kind != _BILLED:
            continue
        if contract_id not in contract_ids:
            return None
        uses.append((meter, model, quantity, informational))
    amounts = plain_amounts(compiled(entry.plan), uses, share_of(entry, asked.period))
    if amounts is None:
        return None
    return {(key, AccountCode.REVENUE): to_ledger(exact) for key, exact in amounts.items()}
