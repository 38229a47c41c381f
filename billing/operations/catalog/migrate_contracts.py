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
from billing.errors import InvalidPlan, SteelyardError
from billing.operations.catalog.contracts import (
    bind_contract,
    end_contract,
    list_contracts,
    require_contract,
)
from billing.operations.catalog.plans import require_plan
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.period import BUCKET, bucket_of


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
    """Move one contract, or say why it stays; a refusal leaves it as it was.

    What was agreed beside the plan stays agreed, if it fits the target plan.

    Args:
        dry_run: do everything, and take it back.
        approval_required: whether somebody must have approved the target version.

    Raises:
        NotFound: no such contract, plan or version.
    """
    bound = require_contract(connection, contract_id)
    plan = require_plan(connection, target.slug, target.version)
    contract = bound.contract
    tenant = next(each.slug for each in list_tenants(connection) if each.id == contract.tenant_id)
    if contract.valid_until is not None:
        return _ending(connection, contract, target, tenant)
    at = _instant(contract, when, now)
    if at <= contract.valid_from:
        return _refused(tenant, contract, at, "it has not begun by then")
    savepoint = connection.begin_nested()
    try:
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
    except SteelyardError as refused:
        savepoint.rollback()
        # Only what is agreed beside the plan can be at odds with a plan that is stored.
        what = "its terms do not fit: " if isinstance(refused, InvalidPlan) else ""
        return _refused(tenant, contract, at, f"{what}{refused.message}")
    if dry_run:
        savepoint.rollback()
    else:
        savepoint.commit()
    return ContractMove(
        tenant=tenant,
        contract_id=contract_id,
        at=at,
        outcome=MoveOutcome.MOVED,
        new_contract_id=None if dry_run else follower.contract.id,
    )


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
        return _refused(tenant, contract, end, "it has an end already, and nothing follows it")
    return ContractMove(
        tenant=tenant,
        contract_id=contract.id,
        at=end,
        outcome=MoveOutcome.MOVED_BEFORE,
        new_contract_id=followers[0],
    )


def _refused(tenant: str, contract: Contract, at: datetime, reason: str) -> ContractMove:
    return ContractMove(
        tenant=tenant, contract_id=contract.id, at=at, outcome=MoveOutcome.REFUSED, reason=reason
    )
