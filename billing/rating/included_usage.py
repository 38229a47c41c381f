"""Step: take off the usage that is free in every billing period."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from billing.catalog.price import Volume
from billing.catalog.price_plan import AllowanceInVolume
from billing.rating.step import Terms, Weighing, figure
from billing.rating.unit_conversion import to_priced_units

_ZERO = Decimal(0)


def deduct_included(terms: Terms, weighing: Weighing) -> Weighing:
    """Leave only what exceeds the allowance, counted over the whole billing period."""
    charge = terms.charge
    if charge.included == 0:
        return weighing
    included = to_priced_units(charge.included, charge)
    if weighing.quantity > included and _is_lost_once_exceeded(terms):
        return weighing.explained(
            "included_usage",
            f"{figure(weighing.quantity)} exceeds the {figure(included)} included, which are"
            " billable then",
        )
    chargeable = replace(weighing, quantity=max(weighing.quantity - included, _ZERO))
    free = weighing.quantity - chargeable.quantity
    if free == 0:
        return chargeable
    return chargeable.explained(
        "included_usage",
        f"{figure(weighing.quantity)} - {figure(free)} included = {figure(chargeable.quantity)}",
    )


def _is_lost_once_exceeded(terms: Terms) -> bool:
    return (
        isinstance(terms.charge.price, Volume)
        and terms.policies.allowance_in_volume is AllowanceInVolume.BILLABLE_ONCE_EXCEEDED
    )
