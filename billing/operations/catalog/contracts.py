"""Bind a tenant to a plan version, end a contract, and tell which terms are in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from billing.catalog.charge import Charge, find_overlaps
from billing.catalog.contract import Contract
from billing.catalog.contract_terms import (
    NO_TERMS,
    ContractTerms,
    apply_terms,
    require_new_terms,
)
from billing.catalog.price_plan import Coverage, PricePlan
from billing.errors import Conflict, InvalidInput, InvalidPlan, NotFound, OverlappingCharges
from billing.operations.catalog.approve_plan import require_approved
from billing.operations.catalog.coverage import require_covered
from billing.operations.catalog.plans import (
    declared_meters,
    plan_of,
    require_plan,
    require_plan_row,
)
from billing.operations.tenancy.tenants import require_tenant
from billing.period import BUCKET, local_midnight, require_on_grid, zone
from billing.planfiles.contract_file import dump_terms, load_terms, terms_digest
from billing.rating.meter_fit import DeclaredMeter, misfit
from billing.store import catalog as store
from billing.store import contract_terms as terms_store
from billing.store import limits
from billing.store.invoices import last_invoiced_end, lock_invoicing
from billing.tenancy.tenant import Tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPlan:
    """A contract with the plan that it binds to.

    Attributes:
        plan: with the terms of the billing period that was asked for; else as it was written.
        terms: what was agreed beside the plan.
    """

    contract: Contract
    plan: PricePlan
    terms: ContractTerms = NO_TERMS


def bind_contract(
    connection: sa.Connection,
    *,
    tenant: str,
    plan: str,
    version: int | None = None,
    valid_from: datetime,
    valid_until: datetime | None = None,
    terms: ContractTerms = NO_TERMS,
    approval_required: bool = False,
    others_follow: bool = False,
    now: datetime,
) -> BoundPlan:
    """Bind a tenant to a plan version.

    Args:
        version: the newest version if left out.
        valid_from, valid_until: half-open, on the 15-minute grid; without an end until ended.
        terms: what is agreed beside the plan; it stays as long as the contract does.
        approval_required: whether somebody must have approved the plan version.
        others_follow: what a plan of `coverage: together` leaves to others is bound later.

    Raises:
        NotFound: no such tenant, plan or version.
        InvalidInput: dates off the grid or in the wrong order; a phase within a billing period.
        InvalidPlan: the terms do not fit the plan, a charge asks what its meter cannot answer, or
            a class of token can come without a price.
        OverlappingCharges: a contract in force at the same time prices the same usage (D16).
        Conflict: a contract of the same billing period, or a limit on money, is in another
            currency; or the plan version was not approved and has to be.
    """
    owner = require_tenant(connection, tenant)
    require_on_grid(valid_from, field="valid_from")
    if valid_until is not None:
        _require_later(require_on_grid(valid_until, field="valid_until"), than=valid_from)
    row = require_plan_row(connection, plan, version)
    if approval_required:
        require_approved(connection, row)
    store.lock_contracts(connection, owner.id)
    new_plan = plan_of(row)
    require_new_terms(new_plan, terms)
    _require_meters(declared := declared_meters(connection), new_plan)
    _require_whole_periods(owner, terms)
    others = bound_plans(connection, tenant_id=owner.id)
    _require_beside_others(others, owner, new_plan, valid_from, valid_until)
    if new_plan.policies.coverage is Coverage.ALONE or not others_follow:
        beside = [(other.contract, other.plan) for other in others]
        require_covered(new_plan, declared, beside, valid_from, valid_until)
    _require_limits_of_currency(connection, owner.id, new_plan, now)
    contract_id = store.insert_contract(
        connection,
        tenant_id=owner.id,
        plan_version_id=row.id,
        valid_from=valid_from,
        valid_until=valid_until,
        now=now,
    )
    _store_terms(connection, contract_id, owner.id, terms, now=now)
    bound = bound_plans(connection, tenant_id=owner.id)
    return next(entry for entry in bound if entry.contract.id == contract_id)


def end_contract(connection: sa.Connection, contract_id: int, *, valid_until: datetime) -> Contract:
    """End a contract that has no end.

    Raises:
        NotFound: no such contract, or it has an end already.
        InvalidInput: the end is off the grid or not after the start.
        Conflict: the end lies in a billing period that was invoiced.
    """
    require_on_grid(valid_until, field="valid_until")
    found = [entry for entry in store.contracts(connection) if entry.id == contract_id]
    for entry in found:
        store.lock_contracts(connection, entry.tenant_id)
    if found:
        _require_later(valid_until, than=found[0].valid_from)
    for entry in found:
        _require_not_invoiced(connection, entry, valid_until)
    if not store.end_contract(connection, contract_id, valid_until=valid_until):
        raise NotFound(
            "no such contract without an end",
            field="contract",
            remedy="list the contracts, and name one that is open",
        )
    return next(entry for entry in store.contracts(connection) if entry.id == contract_id)


def _require_later(valid_until: datetime, *, than: datetime) -> None:
    if valid_until <= than:
        raise InvalidInput(
            "a contract must end after it starts", field="valid_until", remedy="use a later instant"
        )


def list_contracts(connection: sa.Connection, *, tenant_id: int | None = None) -> list[Contract]:
    """Contracts of one tenant, or of everybody if None."""
    return store.contracts(connection, tenant_id=tenant_id)


def require_contract(connection: sa.Connection, contract_id: int) -> BoundPlan:
    """A contract with its plan as written, and its terms.

    Raises:
        NotFound: no such contract.
    """
    found = (each for each in bound_plans(connection) if each.contract.id == contract_id)
    if (contract := next(found, None)) is None:
        raise NotFound("no such contract", field="contract", remedy="list contracts to see them")
    return contract


def bound_plans(
    connection: sa.Connection, *, tenant_id: int | None = None, at: datetime | None = None
) -> list[BoundPlan]:
    """Contracts with their plans, of one tenant or of everybody if None.

    Args:
        at: an instant of the billing period whose terms the plans have; None: plans as written,
            for who asks what is priced and not at which price.
    """
    tenant_ids = None if tenant_id is None else [tenant_id]
    contracts = store.contracts(connection, tenant_id=tenant_id)
    return _with_plans(connection, contracts, tenant_ids=tenant_ids, at=at)


def bound_plans_of(connection: sa.Connection, tenant_ids: Sequence[int]) -> list[BoundPlan]:
    """Contracts of some tenants with their plans as written."""
    contracts = store.contracts_of(connection, tenant_ids)
    return _with_plans(connection, contracts, tenant_ids=tenant_ids, at=None)


def _with_plans(
    connection: sa.Connection,
    contracts: Sequence[Contract],
    *,
    tenant_ids: Sequence[int] | None,
    at: datetime | None,
) -> list[BoundPlan]:
    agreed = {
        row.contract_id: load_terms(row.document)
        for row in terms_store.contract_terms(connection, tenant_ids=tenant_ids)
    }
    plans: dict[tuple[str, int], PricePlan] = {}
    bound: list[BoundPlan] = []
    for contract in contracts:
        key = (contract.plan_slug, contract.plan_version)
        if key not in plans:
            plans[key] = require_plan(connection, *key)
        plan, terms = plans[key], agreed.get(contract.id, NO_TERMS)
        if at is not None and terms != NO_TERMS:
            start = contract.billing_period(at).start.astimezone(zone(contract.zone))
            plan = apply_terms(plan, terms, begins=start.date())
        bound.append(BoundPlan(contract=contract, plan=plan, terms=terms))
    return bound


def price_version_at(
    connection: sa.Connection, contracts: Sequence[Contract], *, tenant_id: int, instant: datetime
) -> int:
    """The price version of what happens at an instant: the set of contracts then in force."""
    in_force = [contract.id for contract in contracts if contract.in_force(instant)]
    return store.price_version(connection, tenant_id=tenant_id, contract_ids=in_force)


def _store_terms(
    connection: sa.Connection,
    contract_id: int,
    tenant_id: int,
    terms: ContractTerms,
    *,
    now: datetime,
) -> None:
    if (digest := terms_digest(terms)) is not None:
        terms_store.insert_terms(
            connection,
            contract_id=contract_id,
            tenant_id=tenant_id,
            document=dump_terms(terms),
            digest=bytes.fromhex(digest),
            now=now,
        )


def _require_meters(declared: Mapping[str, DeclaredMeter], plan: PricePlan) -> None:
    """A version of a meter since the plan was applied may no longer answer what a charge asks."""
    for position, charge in enumerate(plan.charges):
        meter = None if charge.selector is None else declared.get(charge.selector.meter)
        if meter is not None and (found := misfit(charge, meter)) is not None:
            raise InvalidPlan(
                found.message, field=f"charges[{position}].{found.member}", remedy=found.remedy
            )


def _require_whole_periods(tenant: Tenant, terms: ContractTerms) -> None:
    """Included usage, tiers and commitments run through a billing period: one has one price."""
    in_zone = zone(tenant.zone)
    for position, phase in enumerate(terms.phases):
        midnight = local_midnight(phase.begins, in_zone)
        period = tenant.billing_period(midnight)
        if period.start != midnight:
            following = period.end.astimezone(in_zone)
            raise InvalidInput(
                "a phase does not begin with a billing period of the tenant",
                field=f"phases[{position}].from",
                remedy=f"use {following:%Y-%m-%d}",
            )


def _require_beside_others(
    others: Sequence[BoundPlan],
    owner: Tenant,
    new_plan: PricePlan,
    valid_from: datetime,
    valid_until: datetime | None,
) -> None:
    billed_from = owner.billing_period(valid_from).start
    billed_until = valid_until and owner.billing_period(valid_until - BUCKET).end
    for other in others:
        if _at_the_same_time(other.contract, valid_from, valid_until):
            _require_disjoint(other, new_plan.charges)
        if _at_the_same_time(other.contract, billed_from, billed_until):
            _require_one_currency(other, new_plan)


def _at_the_same_time(
    contract: Contract, valid_from: datetime, valid_until: datetime | None
) -> bool:
    starts_before_end = valid_until is None or contract.valid_from < valid_until
    ends_after_start = contract.valid_until is None or valid_from < contract.valid_until
    return starts_before_end and ends_after_start


def _require_one_currency(other: BoundPlan, new_plan: PricePlan) -> None:
    """One billing period is one invoice: of two currencies neither could be issued."""
    if other.plan.currency != new_plan.currency:
        raise Conflict(
            f"contract {other.contract.id} of the same billing period is in another currency",
            field="currency",
            remedy="end that contract with a billing period, and begin this one with the next",
        )


def _require_limits_of_currency(
    connection: sa.Connection, tenant_id: int, new_plan: PricePlan, now: datetime
) -> None:
    """Charges in one currency would count on a limit in the other as if one unit were the other."""
    code = new_plan.currency.code
    for name in limits.other_currencies(connection, tenant_id=tenant_id, currency=code, now=now):
        raise Conflict(
            f"the limit {name} counts another currency",
            field="currency",
            remedy=f"end that limit first, and set one in {code}",
        )


def _require_not_invoiced(
    connection: sa.Connection, contract: Contract, valid_until: datetime
) -> None:
    """A fee that was billed for days after the end would stay billed: nothing credits it."""
    lock_invoicing(connection, contract.tenant_id)
    invoiced_until = last_invoiced_end(connection, tenant_id=contract.tenant_id)
    if invoiced_until is not None and valid_until < invoiced_until:
        raise Conflict(
            "the contract was invoiced beyond this end",
            field="valid_until",
            remedy=f"end it at {invoiced_until:%Y-%m-%dT%H:%MZ} or later",
        )


def _require_disjoint(other: BoundPlan, charges: Sequence[Charge]) -> None:
    overlaps = find_overlaps([*other.plan.charges, *charges])
    boundary = len(other.plan.charges)
    clash = next((o for o in overlaps if o.first < boundary <= o.second), None)
    if clash is not None:
        second = charges[clash.second - boundary]
        raise OverlappingCharges(
            f"contract {other.contract.id} on plan {other.plan.slug} prices {clash.meter} too: "
            f"its charge {other.plan.charges[clash.first].key}, and {second.key} here",
            field=f"charges[{clash.second - boundary}]",
            remedy="end that contract first, or narrow one of the charges to other models",
        )
