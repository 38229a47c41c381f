"""A second opinion on amounts: rational numbers, unit by unit of the rule, sharing no code.

Each function gives the amount of a whole period in major units.
"""

from __future__ import annotations

from fractions import Fraction

from billing.catalog.charge import Charge
from billing.catalog.price import FlatFee, Graduated, PerUnit
from billing.catalog.tier import Tier


def amount(charge: Charge, quantity: Fraction, *, flat_at_zero: bool) -> Fraction:
    """What `quantity` units of the meter cost in one period."""
    price = charge.price
    if isinstance(price, FlatFee):
        return Fraction(price.amount)
    paid = max(quantity - Fraction(charge.included), Fraction(0))
    if isinstance(price, PerUnit):
        return Fraction(price.price) / charge.per * paid
    assert isinstance(price, Graduated)
    return _graduated(price.tiers, charge.per, paid, flat_at_zero=flat_at_zero)


def _graduated(
    tiers: tuple[Tier, ...], per: int, quantity: Fraction, *, flat_at_zero: bool
) -> Fraction:
    """Peel the quantity off from the top: what lies above a tier's floor pays that tier."""
    total = Fraction(0)
    floors = [Fraction(0)] + [Fraction(tier.up_to) for tier in tiers if tier.up_to]
    rest = quantity
    for floor, tier in reversed(list(zip(floors, tiers, strict=True))):
        if rest > floor:
            total += (rest - floor) * Fraction(tier.unit) / per + Fraction(tier.flat)
            rest = floor
    if quantity == 0 and flat_at_zero:
        total += Fraction(tiers[0].flat)
    return total


def rounded(exact: Fraction, decimals: int) -> int:
    """Minor units: the nearest, the larger of two."""
    scaled = exact * 10**decimals
    below = scaled.numerator // scaled.denominator
    return below + 1 if scaled - below >= Fraction(1, 2) else below
