"""Fees that are billed before their period: which there are, and which were billed for nothing.

A flat fee with `in_advance` is on the invoice of the period before, prorated by the days of its
period that the contract is known to cover; a contract's first ones are on an invoice of their own.
It earns nothing before its period does: Unbilled is below zero until then. Where the contract ends
earlier, the period's own invoice gives the rest back.
"""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.rating.rate_period import RatedContract, RatedPeriod, rate_stored
from billing.period import Period
from billing.rating.line import LineKind, Rating
from billing.store.invoice_lines import billed_ahead
from billing.tenancy.tenant import Tenant


def rate_advance(connection: sa.Connection, *, tenant: Tenant, period: Period) -> RatedPeriod:
    """A billing period's fees in advance, and nothing else of it."""
    bound = bound_plans(connection, tenant_id=tenant.id, at=period.start)
    return fees_in_advance(bound, tenant=tenant, period=period)


def fees_in_advance(bound: list[BoundPlan], *, tenant: Tenant, period: Period) -> RatedPeriod:
    """A billing period's fees in advance under given contracts; pure.

    What is promised or bounded over a period is known at its end, and is on its own invoice.
    """
    fees = [
        replace(entry, plan=replace(entry.plan, charges=charges, commitments=(), coupons=()))
        for entry in bound
        if (charges := tuple(charge for charge in entry.plan.charges if charge.in_advance))
    ]
    rated = rate_stored(
        tenant=tenant, period=period, watermark=0, bound=fees, quantities={}, units={}
    )
    return replace(rated, contracts=tuple(_charges(contract) for contract in rated.contracts))


def billed_for_nothing(connection: sa.Connection, *, tenant: Tenant) -> list[RatedPeriod]:
    """Periods that were billed in advance for contracts that ended before them, rated to nothing.

    Those that a contract still covers are corrected by their own invoice.
    """
    by_id = {entry.contract.id: entry for entry in bound_plans(connection, tenant_id=tenant.id)}
    return [
        rated_to_nothing(by_id[contract_id], tenant=tenant, period=period)
        for contract_id, start in billed_ahead(connection, tenant_id=tenant.id)
        if by_id[contract_id].contract.segment(period := tenant.billing_period(start)) is None
    ]


def rated_to_nothing(entry: BoundPlan, *, tenant: Tenant, period: Period) -> RatedPeriod:
    """A period in which a contract is not in force, and earns nothing."""
    nothing = Rating(currency=entry.plan.currency, lines=(), unrated=())
    return RatedPeriod(
        tenant=tenant,
        period=period,
        watermark=0,
        contracts=(RatedContract(bound=entry, quantities=(), rating=nothing),),
        unrated=(),
    )


def _charges(contract: RatedContract) -> RatedContract:
    lines = tuple(line for line in contract.rating.lines if line.kind is LineKind.CHARGE)
    return replace(contract, rating=replace(contract.rating, lines=lines))
