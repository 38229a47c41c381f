"""Tiers: which part of a quantity falls into which tier, and what it costs.

Decides: a tier holds the quantities above the one before it up to and including its own bound;
its flat fee is due once the period's quantity has entered it. For the first tier that is the
first unit, or the start of the period where the plan charges it without usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil

from billing.catalog.charge import Charge
from billing.catalog.price_plan import AllowanceInVolume, ZeroUsageFirstFlat
from billing.catalog.tier import Tier
from billing.rating.step import Terms, Weighing, figure
from billing.rating.unit_conversion import to_priced_units

STEP = "price"
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """One tier in priced units: above `lower`, up to and including `upper` (None: open)."""

    number: int
    lower: Decimal
    upper: Decimal | None
    tier: Tier

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


def price_graduated(terms: Terms, weighing: Weighing, tiers: tuple[Tier, ...]) -> Weighing:
    """Each part of the quantity at the price of its tier."""
    for stretch in stretches(terms.charge, tiers):
        quantity = stretch.part(weighing.quantity)
        if quantity > 0:
            weighing = _priced(terms, weighing, stretch, quantity)
        if quantity > 0 or is_charged_from_start(terms, stretch):
            weighing = enter(terms, weighing, stretch)
    return weighing


def price_volume(terms: Terms, weighing: Weighing, tiers: tuple[Tier, ...]) -> Weighing:
    """The whole quantity at the price of the tier that it reaches."""
    quantity = weighing.quantity
    reached = quantity - _lost_allowance(terms, quantity)
    for stretch in stretches(terms.charge, tiers):
        if stretch.upper is not None and reached > stretch.upper:
            continue
        if quantity > 0:
            weighing = _priced(terms, weighing, stretch, quantity)
        if quantity > 0 or is_charged_from_start(terms, stretch):
            weighing = enter(terms, weighing, stretch)
        return weighing
    raise AssertionError("the last tier is open")


def _priced(terms: Terms, weighing: Weighing, stretch: Stretch, quantity: Decimal) -> Weighing:
    tier = stretch.tier
    units, sold_as = quantity, ""
    if tier.package is not None:
        units = Decimal(ceil(Fraction(quantity) / Fraction(_package(terms.charge, tier.package))))
        sold_as = f"{figure(quantity)} in packages of {figure(tier.package)}: "
    amount = units * tier.unit
    weighing = weighing.priced(
        STEP,
        f"{stretch.label()}: {sold_as}{figure(units)} x {figure(tier.unit)}"
        f" = {figure(amount)} {terms.currency.code}",
        amount,
    )
    bounded = max(amount if tier.cap is None else min(amount, tier.cap), tier.minimum)
    if bounded == amount:
        return weighing
    word, bound = ("at most", tier.cap) if bounded < amount else ("at least", tier.minimum)
    assert bound is not None
    return weighing.priced(
        STEP,
        f"tier {stretch.number} costs {word} {figure(bound)}:"
        f" {figure(bounded - amount)} {terms.currency.code}",
        bounded - amount,
    )


def enter(terms: Terms, weighing: Weighing, stretch: Stretch) -> Weighing:
    """Add the tier's flat fee."""
    flat = stretch.tier.flat
    if flat == 0:
        return weighing
    text = f"tier {stretch.number} entered: {figure(flat)} {terms.currency.code}"
    return weighing.priced(STEP, text, flat)


def is_charged_from_start(terms: Terms, stretch: Stretch) -> bool:
    """Whether the tier's flat fee is due without usage."""
    return stretch.number == 1 and terms.policies.zero_usage_first_flat is ZeroUsageFirstFlat.CHARGE


def _lost_allowance(terms: Terms, quantity: Decimal) -> Decimal:
    """What of the quantity was allowed free and is billable now: tiers count from behind it."""
    included = to_priced_units(terms.charge.included, terms.charge)
    lost = terms.policies.allowance_in_volume is AllowanceInVolume.BILLABLE_ONCE_EXCEEDED
    return included if lost and quantity > included else _ZERO


def _package(charge: Charge, size: Decimal) -> Decimal:
    return to_priced_units(size, charge)


def stretches(charge: Charge, tiers: tuple[Tier, ...]) -> Iterator[Stretch]:
    """The tiers of a charge in its priced units."""
    lower = _ZERO
    for position, tier in enumerate(tiers):
        upper = None if tier.up_to is None else to_priced_units(tier.up_to, charge)
        yield Stretch(number=position + 1, lower=lower, upper=upper, tier=tier)
        if upper is not None:
            lower = upper
