"""Step: from units of the meter to the units that a price is quoted for."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from billing.catalog.charge import Charge, FlatFee, Graduated, OutcomePrice, PerUnit
from billing.rating.step import Terms, Weighing, figure


def convert_units(terms: Terms, weighing: Weighing) -> Weighing:
    """Divide by the charge's `per`. It is a power of ten, so no digit is lost."""
    per = per_of(terms.charge)
    if per == 1 or weighing.quantity == 0:
        return replace(
            weighing,
            before=to_priced_units(weighing.before, per),
            through=to_priced_units(weighing.through, per),
        )
    converted = replace(
        weighing,
        before=to_priced_units(weighing.before, per),
        through=to_priced_units(weighing.through, per),
    )
    return converted.explained(
        "unit_conversion",
        f"{figure(weighing.quantity)} {terms.unit} / {per:,} = {figure(converted.quantity)}",
    )


def to_priced_units(quantity: Decimal, per: int) -> Decimal:
    """A quantity in units of the meter as a multiple of `per`, exactly."""
    return quantity.scaleb(1 - len(str(per)))


def per_of(charge: Charge) -> int:
    """How many units of the meter the charge's price is for."""
    match charge:
        case PerUnit() | Graduated():
            return charge.per
        case FlatFee() | OutcomePrice():
            return 1
        case _:
            assert_never(charge)
