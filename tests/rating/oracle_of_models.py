"""A second opinion on every price model and adjustment, in rational numbers.

Written from the definitions, sharing no code with the engine: it goes through the uses of a whole
period and says what the period costs, in minor units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from billing.catalog.charge import Charge
from billing.catalog.price import (
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.price_plan import PricePlan
from billing.catalog.tier import Tier

ZERO = Fraction(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One event: its hour of the period, the value of its dimension, its quantity."""

    hour: int
    region: str
    quantity: Fraction


def total_minor(plan: PricePlan, uses: Sequence[Use], *, hours: int) -> int:
    """Minor units of a two-decimal currency for a period of so many hours."""
    total = sum(charge_minor(charge, uses, hours=hours) for charge in plan.charges)
    for promised in plan.commitments:
        short = nearest(Fraction(promised.amount) * 100) - total
        beyond = nearest(-short * (Fraction(promised.overage_factor) - 1))
        total += short if short > 0 else beyond
    for coupon in plan.coupons:
        off = nearest(Fraction(coupon.percent_off) / 100 * total)
        total -= off or min(nearest(Fraction(coupon.amount_off) * 100), total)
    return total


def charge_minor(charge: Charge, uses: Sequence[Use], *, hours: int) -> int:
    bent = charge.adjustments
    exact = exact_amount(charge, uses, hours=hours)
    minor = nearest(exact * (1 - Fraction(bent.discount_percent) / 100) * 100)
    if bent.maximum is not None:
        minor = min(minor, nearest(Fraction(bent.maximum) * 100))
    minor = max(minor, nearest(Fraction(bent.minimum) * 100))
    promised = bent.commitment
    if promised is not None and promised.window is Span.PERIOD:
        due = nearest(Fraction(promised.amount) * 100)
        if minor > due:
            return minor + nearest((minor - due) * (Fraction(promised.overage_factor) - 1))
        return due if promised.true_up else minor
    return minor


def exact_amount(charge: Charge, uses: Sequence[Use], *, hours: int) -> Fraction:
    """Before discount and bounds."""
    promised = charge.adjustments.commitment
    hourly = promised is not None and promised.window is Span.HOUR
    parts: dict[tuple[str, int], list[Fraction]] = defaultdict(list)
    restarts = charge.restart is Span.HOUR or hourly or isinstance(charge.price, Reserved)
    for use in sorted(uses, key=lambda use: use.hour):
        place = (use.region if charge.split_by else "", use.hour if restarts else 0)
        parts[place].append(use.quantity)
    amounts = {place: group_amount(charge, values) for place, values in parts.items()}
    if hourly:
        assert promised is not None
        return sum(
            (
                kept(amounts.get(("", hour), ZERO), Fraction(promised.amount), promised)
                for hour in range(hours)
            ),
            ZERO,
        )
    total = sum(amounts.values(), ZERO)
    if isinstance(charge.price, Reserved):
        total += reserved(charge, charge.price, parts, hours)
    return total


def kept(amount: Fraction, due: Fraction, promised) -> Fraction:
    if amount > due:
        return due + (amount - due) * Fraction(promised.overage_factor)
    return due if promised.true_up else amount


def reserved(charge: Charge, price: Reserved, parts, hours: int) -> Fraction:
    committed = Fraction(price.committed)
    used = sum((min(sum(values), committed) for values in parts.values()), ZERO)
    whole = hours * committed
    paid = whole * Fraction(price.price) - (whole - used) * Fraction(price.shortfall)
    return paid / charge.per


def group_amount(charge: Charge, values: list[Fraction]) -> Fraction:
    """What uses cost that count together, in order."""
    price = charge.price
    if isinstance(price, Percentage):
        return transactions(price, values)
    units = sum(values, ZERO) / charge.per
    if charge.round_units is not None:
        up = charge.round_units is Rounding.UP
        units = Fraction(-(-units // 1) if up else units // 1)
    paid = max(units - Fraction(charge.included) / charge.per, ZERO)
    if isinstance(price, PerUnit):
        return paid * Fraction(price.price)
    if isinstance(price, Package):
        count = paid / (Fraction(price.size) / charge.per)
        return (-(-count // 1) if price.rounding is Rounding.UP else count // 1) * Fraction(
            price.price
        )
    if isinstance(price, Reserved):
        over = max(paid - Fraction(price.committed) / charge.per, ZERO)
        return over * Fraction(price.overage)
    assert isinstance(price, Graduated | Volume)
    return tiered(charge, price.tiers, paid, graduated=isinstance(price, Graduated))


def tiered(charge: Charge, tiers: tuple[Tier, ...], paid: Fraction, *, graduated: bool) -> Fraction:
    """Peel the quantity off from the top: what lies above a tier's floor pays that tier."""
    total, rest = ZERO, paid
    floors = [ZERO, *(Fraction(tier.up_to) / charge.per for tier in tiers if tier.up_to)]
    for floor, tier in reversed(list(zip(floors, tiers, strict=True))):
        if rest > floor:
            part = rest - floor if graduated else rest
            total += in_tier(charge, tier, part)
            rest = floor if graduated else ZERO
    return total


def in_tier(charge: Charge, tier: Tier, part: Fraction) -> Fraction:
    if tier.package is not None:
        part = Fraction(-(-part // (Fraction(tier.package) / charge.per)))
    amount = part * Fraction(tier.unit)
    if tier.cap is not None:
        amount = min(amount, Fraction(tier.cap))
    return max(amount, Fraction(tier.minimum)) + Fraction(tier.flat)


def transactions(price: Percentage, values: list[Fraction]) -> Fraction:
    total, running = ZERO, ZERO
    unbounded = price.free_transactions is None and price.free_value is None
    for number, value in enumerate(values):
        left = value
        if not unbounded and (price.free_transactions is None or number < price.free_transactions):
            room = (
                max(Fraction(price.free_value) - running, ZERO)
                if price.free_value is not None
                else value
            )
            left = max(value - room, ZERO)
            if left == 0:
                running += value
                continue
        running += value
        amount = left * Fraction(price.percent) / 100 + Fraction(price.fixed)
        amount = max(amount, Fraction(price.minimum))
        total += amount if price.maximum is None else min(amount, Fraction(price.maximum))
    return total


def nearest(exact: Fraction) -> int:
    """The nearest whole number, of two the one away from zero."""
    size = (2 * abs(exact) + 1) // 2
    return int(size if exact >= 0 else -size)
