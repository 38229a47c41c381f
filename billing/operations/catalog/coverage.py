"""Whether what a tenant buys can be priced whole: every band, service tier and input of it.

Decides: over which contracts that is judged, and when. A plan of `coverage: alone` is judged by
itself. One of `coverage: together` is judged with all contracts in force beside it, at each instant
at which that set changes: what another contract prices, it prices until it ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from billing.catalog.charge import Charge
from billing.catalog.contract import Contract
from billing.catalog.price_plan import Coverage, PricePlan
from billing.errors import InvalidPlan
from billing.rating.meter_fit import DeclaredMeter
from billing.rating.unpriced_values import (
    Gap,
    is_priced_whole,
    unpriced_inputs,
    unpriced_values,
)


def require_covered(
    plan: PricePlan,
    declared: Mapping[str, DeclaredMeter],
    beside: Sequence[tuple[Contract, PricePlan]],
    valid_from: datetime,
    valid_until: datetime | None,
) -> None:
    """Refuse a plan to be bound that leaves part of a class that it sells without a price.

    Args:
        declared: meters by code.
        beside: other contracts of the tenant.
        valid_from, valid_until: when the plan is to be in force.

    Raises:
        InvalidPlan: names plan, charge and class, and since when, if not from the start.
    """
    if plan.policies.coverage is Coverage.ALONE:
        for gap in unpriced_values(plan.charges, declared):
            raise InvalidPlan(gap.message, field=f"charges[{gap.positions[0]}]", remedy=gap.remedy)
        return
    for instant in _changes(beside, valid_from, valid_until):
        others = [other for contract, other in beside if contract.in_force(instant)]
        for position, gap in _left(plan, others, declared):
            since = "" if instant == valid_from else f" from {instant:%Y-%m-%dT%H:%MZ} on"
            raise InvalidPlan(
                f"plan {plan.slug} and those beside it: {gap.message}{since}",
                field=f"charges[{position}]",
                remedy="bind the contract that prices it first, or say that others follow",
            )


def leaves_unpriced(plans: Sequence[PricePlan], meter: DeclaredMeter, model: str) -> bool:
    """Whether plans in force together sell a class of a model and leave part of it without a price.

    Of plans that are judged alone nothing is asked again: they were whole when they were bound.
    """
    code = meter.meter.code
    sold = [
        plan.policies.coverage
        for plan in plans
        if any(each.selector and each.selector.selects(code, model) for each in plan.charges)
    ]
    charges = [charge for plan in plans for charge in plan.charges]
    return Coverage.TOGETHER in sold and not is_priced_whole(charges, meter, model)


def _changes(
    beside: Sequence[tuple[Contract, PricePlan]],
    valid_from: datetime,
    valid_until: datetime | None,
) -> list[datetime]:
    """The start, and when a contract beside begins or ends before the end."""
    found = {valid_from}
    for contract, _ in beside:
        for instant in (contract.valid_from, contract.valid_until):
            if instant is not None and instant > valid_from:
                found.add(instant)
    return sorted(each for each in found if valid_until is None or each < valid_until)


def _left(
    plan: PricePlan, others: Sequence[PricePlan], declared: Mapping[str, DeclaredMeter]
) -> Iterator[tuple[int, Gap]]:
    """Gaps in what the plan sells, with its first charge of it."""
    charges: list[Charge] = [*plan.charges]
    for other in others:
        charges += other.charges
    for gap in (*unpriced_values(charges, declared), *unpriced_inputs(charges)):
        if (position := min(gap.positions)) < len(plan.charges):
            yield position, gap
