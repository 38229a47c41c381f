"""Graduated tiers: which part of a quantity falls into which tier, and what it costs.

Decides: a tier holds the quantities above the one before it up to and including its own bound;
its flat fee is due when the period's quantity first enters it. For the first tier that is the
first unit, or the start of the period where the plan charges it without usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.charge import Graduated
from billing.catalog.price_plan import ZeroUsageFirstFlat
from billing.rating.step import Terms, Weighing, figure
from billing.rating.unit_conversion import to_priced_units

STEP = "price"
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """One tier in priced units: above `lower`, up to and including `upper` (None: open)."""

    number: int
    lower: Decimal
    upper: Decimal | None
    unit: Decimal
    flat: Decimal

    def part(self, quantity: Decimal) -> Decimal:
        """How much of a cumulative quantity lies in this tier."""
        reached = quantity if self.upper is None else min(quantity, self.upper)
        return max(reached - self.lower, _ZERO)

    def label(self) -> str:
        """The tier as a person says it, in priced units."""
        bounds = f"above {figure(self.lower)}"
        if self.upper is not None:
            bounds = f"{bounds} up to {figure(self.upper)}"
        return f"tier {self.number}, {bounds}"


def price_tiers(terms: Terms, weighing: Weighing, charge: Graduated) -> Weighing:
    """Price a slice tier by tier."""
    for stretch in _stretches(charge):
        quantity = stretch.part(weighing.through) - stretch.part(weighing.before)
        if quantity > 0:
            amount = quantity * stretch.unit
            weighing = weighing.priced(
                STEP,
                f"{stretch.label()}: {figure(quantity)} x {figure(stretch.unit)}"
                f" = {figure(amount)} {terms.currency_code}",
                amount,
            )
        if stretch.flat > 0 and _enters(terms, weighing, stretch):
            weighing = weighing.priced(
                STEP,
                f"tier {stretch.number} entered: {figure(stretch.flat)} {terms.currency_code}",
                stretch.flat,
            )
    return weighing


def _enters(terms: Terms, weighing: Weighing, stretch: _Stretch) -> bool:
    """Whether the period's quantity enters the tier in this slice."""
    charged_from_start = (
        stretch.number == 1 and terms.policies.zero_usage_first_flat is ZeroUsageFirstFlat.CHARGE
    )
    if charged_from_start:
        return terms.opens_period
    return weighing.before <= stretch.lower < weighing.through


def _stretches(charge: Graduated) -> Iterator[_Stretch]:
    lower = _ZERO
    for position, tier in enumerate(charge.tiers):
        upper = None if tier.up_to is None else to_priced_units(tier.up_to, charge.per)
        yield _Stretch(
            number=position + 1, lower=lower, upper=upper, unit=tier.unit, flat=tier.flat
        )
        if upper is not None:
            lower = upper
