"""Move contracts from one plan version to another: end each, and bind its tenant anew at once.

The caller opens a transaction for each contract, so that a run that was cut off is taken up by
running it again: a contract that was moved is found to be, and the rest are moved. Both contracts
price their own part of the billing period, as lines of one invoice (D17).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from billing.catalog.contract import Contract
from billing.catalog.contract_terms import require_fit
from billing.errors import Conflict, InvalidPlan, NotFound, SteelyardError
from billing.operations.catalog.contracts import (
    bind_contract,
    end_contract,
    list_contracts,
    require_contract,
)
from billing.operations.catalog.plans import require_plan
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.period import BUCKET, bucket_of
from billing.store.catalog import lock_contracts


class MoveTime(StrEnum):
    """When a contract moves."""

    NOW = "now"
    """At the next quarter of an hour: what was used before it keeps its price."""
    PERIOD_END = "period-end"
    """With the end of the tenant's billing period."""


class MoveOutcome(StrEnum):
    """What became of a contract."""

    MOVED = "moved"
    MOVED_BEFORE = "moved before"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanVersion:
    """One version of a plan."""

    slug: str
    version: int

    def binds(self, contract: Contract) -> bool:
        """Whether a contract is on this version."""
        return (contract.plan_slug, contract.plan_version) == (self.slug, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractMove:
    """What became of one contract.

    Attributes:
        tenant: its slug.
        contract_id: the contract that is left.
        at: the instant at which the tenant moves.
        new_contract_id: the contract that follows; None if refused.
        reason: why it was refused.
    """

    tenant: str
    contract_id: int
    at: datetime
    outcome: MoveOutcome
    new_contract_id: int | None = None
    reason: str | None = None


def contracts_to_move(
    connection: sa.Connection,
    *,
    source: PlanVersion,
    tenants: Collection[str] = (),
    now: datetime,
) -> list[Contract]:
    """Contracts on a plan version that are in force now or later, oldest first.

    Args:
        tenants: slugs; empty: of everybody.

    Raises:
        NotFound: no such tenant, plan or version.
    """
    chosen = {require_tenant(connection, slug).id for slug in tenants}
    require_plan(connection, source.slug, source.version)
    return [
        contract
        for contract in list_contracts(connection)
        if source.binds(contract)
        and (contract.valid_until is None or contract.valid_until > now)
        and (not chosen or contract.tenant_id in chosen)
    ]


def move_contract(
    connection: sa.Connection,
    contract_id: int,
    *,
    target: PlanVersion,
    when: MoveTime,
    dry_run: bool = False,
    approval_required: bool = False,
    now: datetime,
) -> ContractMove:
    """Move one contract, or say why it stays; see `migrate_contract`.

    Raises:
        NotFound: no such contract, plan or version.
    """
    try:
        return migrate_contract(
            connection,
            contract_id,
            target=target,
            when=when,
            dry_run=dry_run,
            approval_required=approval_required,
            now=now,
        )
    except NotFound:
        raise
    except SteelyardError as refused:
        contract = require_contract(connection, contract_id).contract
        # Only what is agreed beside the plan can be at odds with a plan that is stored.
        what = "its terms do not fit: " if isinstance(refused, InvalidPlan) else ""
        return ContractMove(
            tenant=_tenant_of(connection, contract),
            contract_id=contract_id,
            at=contract.valid_until or _instant(contract, when, now),
            outcome=MoveOutcome.REFUSED,
            reason=f"{what}{refused.message}",
        )


def migrate_contract(
    connection: sa.Connection,
    contract_id: int,
    *,
    target: PlanVersion,
    when: MoveTime,
    dry_run: bool = False,
    approval_required: bool = False,
    now: datetime,
) -> ContractMove:
    """Move one contract; a refusal leaves it as it was. It is left once: again is the same answer.

    What was agreed beside the plan stays agreed, if it fits the target plan.

    Args:
        dry_run: do everything, and take it back.
        approval_required: whether somebody must have approved the target version.

    Raises:
        NotFound: no such contract, plan or version.
        Conflict: it has not begun by then, has ended for something else, is invoiced beyond that
            instant, or is at odds with another contract's currency; or nobody approved the target.
        InvalidPlan: its terms do not fit the target.
        OverlappingCharges: another contract prices the same usage (D16).
    """
    plan = require_plan(connection, target.slug, target.version)
    # Whoever moves it at the same time is waited for, and then found to have done it.
    lock_contracts(connection, require_contract(connection, contract_id).contract.tenant_id)
    bound = require_contract(connection, contract_id)
    contract, tenant = bound.contract, _tenant_of(connection, bound.contract)
    if contract.valid_until is not None:
        return _ending(connection, contract, target, tenant)
    at = _instant(contract, when, now)
    if at <= contract.valid_from:
        raise Conflict("it has not begun by then", field="contract", remedy="wait until it has")
    with connection.begin_nested() as savepoint:
        require_fit(plan, bound.terms)
        end_contract(connection, contract_id, valid_until=at)
        follower = bind_contract(
            connection,
            tenant=tenant,
            plan=target.slug,
            version=target.version,
            valid_from=at,
            terms=bound.terms,
            approval_required=approval_required,
            now=now,
        )
        if dry_run:
            savepoint.rollback()
    return ContractMove(
        tenant=tenant,
        contract_id=contract_id,
        at=at,
        outcome=MoveOutcome.MOVED,
        new_contract_id=None if dry_run else follower.contract.id,
    )


def _tenant_of(connection: sa.Connection, contract: Contract) -> str:
    return next(each.slug for each in list_tenants(connection) if each.id == contract.tenant_id)


def _instant(contract: Contract, when: MoveTime, now: datetime) -> datetime:
    if when is MoveTime.PERIOD_END:
        return contract.billing_period(now).end
    return bucket_of(now - timedelta(microseconds=1)) + BUCKET


def _ending(
    connection: sa.Connection, contract: Contract, target: PlanVersion, tenant: str
) -> ContractMove:
    end = contract.valid_until
    assert end is not None
    followers = [
        each.id
        for each in list_contracts(connection, tenant_id=contract.tenant_id)
        if target.binds(each) and each.valid_from == end
    ]
    if not followers:
        raise Conflict(
            "it has an end already, and nothing follows it",
            field="contract",
            remedy="bind the tenant anew from the end on",
        )
    return ContractMove(
        tenant=tenant,
        contract_id=contract.id,
        at=end,
        outcome=MoveOutcome.MOVED_BEFORE,
        new_contract_id=followers[0],
    )
