"""Step: take off the usage that is free in every billing period."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from billing.catalog.charge import PerUnit
from billing.rating.step import Terms, Weighing, figure
from billing.rating.unit_conversion import to_priced_units

_ZERO = Decimal(0)


def deduct_included(terms: Terms, weighing: Weighing) -> Weighing:
    """Leave only what exceeds the allowance, counted over the whole billing period."""
    charge = terms.charge
    if not isinstance(charge, PerUnit) or charge.included == 0:
        return weighing
    included = to_priced_units(charge.included, charge.per)
    chargeable = replace(
        weighing,
        before=max(weighing.before - included, _ZERO),
        through=max(weighing.through - included, _ZERO),
    )
    free = weighing.quantity - chargeable.quantity
    if free == 0:
        return chargeable
    return chargeable.explained(
        "included_usage",
        f"{figure(weighing.quantity)} - {figure(free)} included = {figure(chargeable.quantity)}",
    )
