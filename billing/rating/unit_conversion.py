"""Step: from units of the meter to the units that a price is quoted for."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from billing.catalog.charge import Charge
from billing.catalog.price import Rounding
from billing.rating.step import Terms, Weighing, figure


def convert_units(terms: Terms, weighing: Weighing) -> Weighing:
    """Divide by the charge's `per`, and round where the charge says so.

    The rounding is of the period's cumulative quantity, so that a period in slices pays for the
    same whole units as one that is rated at once.
    """
    charge = terms.charge
    if charge.per == 1 and charge.round_units is None:
        return weighing
    converted = replace(weighing, quantity=to_priced_units(weighing.quantity, charge))
    if weighing.quantity == 0:
        return converted
    how = "" if charge.round_units is None else f", rounded {charge.round_units.value},"
    return converted.explained(
        "unit_conversion",
        f"{figure(weighing.quantity)} {terms.unit} / {charge.per:,}{how}"
        f" = {figure(converted.quantity)}",
    )


def to_priced_units(quantity: Decimal, charge: Charge) -> Decimal:
    """A quantity in units of the meter as a number of the charge's priced units, exactly.

    Bounds of tiers are converted in the same way; a bound that is no whole number of units under
    a rounding divisor is rounded like the quantity that it is compared with.
    """
    if charge.round_units is None:
        return quantity.scaleb(1 - len(str(charge.per)))
    units = Fraction(quantity) / charge.per
    return Decimal(ceil(units) if charge.round_units is Rounding.UP else floor(units))
