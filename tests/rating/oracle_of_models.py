"""A second opinion on every price model and adjustment, in rational numbers.

Written from the definitions, sharing no code with the engine: it goes through the uses of a whole
period and says what the period costs, in minor units of a two-decimal currency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.price_plan import AllowanceInVolume, NegativeUsage, Policies, PricePlan
from billing.catalog.price_plan import ZeroUsageFirstFlat as FirstFlat
from billing.catalog.tier import Tier

ZERO = Fraction(0)
SUNDAY = 6 * 96
"""The first quarter hour of a Sunday, on which every period of the oracle begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One event: its meter, its hour of the period, the value of its dimension, its quantity."""

    meter: str = "requests"
    hour: int
    region: str
    quantity: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """How many hours are billed, and which days of the billing period the contract covers."""

    hours: int
    days_before: int = 0
    days: int = 1
    of_days: int = 1

    def cut(self, amount) -> Fraction:
        """The covered days' part of an amount, at 12 decimals of what the days up to them cost."""
        whole = Fraction(amount)
        if self.days == self.of_days:
            return whole
        ends, begins = (
            nearest(whole * days / self.of_days * 10**12)
            for days in (self.days_before + self.days, self.days_before)
        )
        return Fraction(ends - begins, 10**12)


def total_minor(plan: PricePlan, uses: Sequence[Use], time: Time) -> int:
    """What a period costs."""
    lines = [(c.key, charge_minor(c, plan.policies, uses, time)) for c in plan.charges]

    def reached(keys: frozenset[str] | None) -> int:
        return sum(minor for key, minor in lines if keys is None or key in keys)

    for promised in plan.commitments:
        paid, due = reached(promised.charges), nearest(time.cut(promised.amount) * 100)
        more = nearest((paid - due) * (Fraction(promised.overage_factor) - 1))
        if paid < due:
            more = due - paid if promised.amount else 0
        lines.append((promised.key, more))
    for coupon in plan.coupons:
        paid = max(reached(coupon.charges), 0)
        off = nearest(Fraction(coupon.percent_off) / 100 * paid)
        if coupon.amount_off:
            off = min(nearest(Fraction(coupon.amount_off) * 100), paid)
        lines.append((coupon.key, -off))
    return reached(None)


def charge_minor(charge: Charge, policies: Policies, uses: Sequence[Use], time: Time) -> int:
    bent = charge.adjustments
    minor = sum(
        nearest(exact * (1 - Fraction(bent.discount_percent) / 100) * 100)
        for exact in exact_amounts(charge, policies, uses, time)
    )
    if bent.maximum is not None:
        minor = min(minor, nearest(Fraction(bent.maximum) * 100))
    if bent.minimum:
        minor = max(minor, nearest(time.cut(bent.minimum) * 100))
    promised = bent.commitment
    if promised is not None and promised.window is Span.PERIOD:
        due = nearest(time.cut(promised.amount) * 100)
        if minor > due:
            return minor + nearest((minor - due) * (Fraction(promised.overage_factor) - 1))
        return due if promised.true_up and promised.amount else minor
    return minor


def exact_amounts(
    charge: Charge, policies: Policies, uses: Sequence[Use], time: Time
) -> tuple[Fraction, Fraction]:
    """Before discount and bounds: of what was used, and of what windows left unused."""
    if isinstance(charge.price, FlatFee):
        return time.cut(charge.price.amount), ZERO
    promised = charge.adjustments.commitment
    hourly = promised is not None and promised.window is Span.HOUR
    parts: dict[tuple[str, int], list[Fraction]] = defaultdict(list)
    restarts = charge.restart is Span.HOUR or hourly or isinstance(charge.price, Reserved)
    for use in sorted(uses, key=lambda use: use.hour):
        if is_for(charge, use):
            place = (use.region if charge.split_by else "", use.hour if restarts else 0)
            parts[place].append(use.quantity)
    if not isinstance(charge.price, Percentage):
        # What was taken back whole was not used.
        for place in [place for place, values in parts.items() if sum(values) == 0]:
            del parts[place]
    if not parts:
        parts["", -1] = []
    amounts = {place: group(charge, policies, values) for place, values in parts.items()}
    hours = sum(is_open(charge, hour) for hour in range(time.hours))
    if hourly:
        assert promised is not None
        clamped = policies.negative_usage is NegativeUsage.CLAMP
        used = {
            place: ZERO if clamped and sum(values) < 0 else sum(values, ZERO)
            for place, values in parts.items()
        }
        return of_windows(charge, promised, used, amounts, hours)
    total, unused = sum(amounts.values(), ZERO), ZERO
    if isinstance(charge.price, Reserved):
        kept, unused = reserved(charge, charge.price, parts, hours)
        total += kept
    return total, unused


def is_for(charge: Charge, use: Use) -> bool:
    """Whether a charge prices a use."""
    selector = charge.selector
    assert selector is not None
    listed = all((use.region in c.values) != c.others for c in selector.where)
    return selector.meter == use.meter and listed and is_open(charge, use.hour)


def is_open(charge: Charge, hour: int) -> bool:
    """Whether a charge applies in an hour of the period."""
    assert charge.selector is not None
    window = charge.selector.window
    return window is None or SUNDAY + 4 * hour in window.quarters


def of_windows(
    charge: Charge, promised, used: Mapping, amounts: Mapping, hours: int
) -> tuple[Fraction, Fraction]:
    """Each hour by itself; one in which nothing was to be paid for owes what was promised.

    Of an hour that gave back more than it used, the mirror image of its promise is given back.
    """
    total, missing, kept_in = ZERO, ZERO, 0
    for place, quantity in used.items():
        amount, sign = amounts[place], -1 if quantity < 0 else 1
        if paid_units(charge, abs(quantity)):
            due = Fraction(promised.amount)
            beyond = sign * amount - due
            if beyond > 0:
                amount += sign * beyond * (Fraction(promised.overage_factor) - 1)
            elif promised.true_up:
                missing -= sign * beyond
            kept_in += sign > 0
        total += amount
    if promised.true_up:
        missing += (hours - kept_in) * Fraction(promised.amount)
    return total, missing


def reserved(charge: Charge, price: Reserved, parts, hours: int) -> tuple[Fraction, Fraction]:
    committed = Fraction(price.committed)
    used = sum((min(max(sum(values), ZERO), committed) for values in parts.values()), ZERO)
    unused = hours * committed - used
    back = Fraction(price.price) - Fraction(price.shortfall)
    return used * Fraction(price.price) / charge.per, unused * back / charge.per


def group(charge: Charge, policies: Policies, values: list[Fraction]) -> Fraction:
    """What uses cost that count together; below zero, nothing or the mirror image."""
    if sum(values) >= 0:
        return group_amount(charge, policies, values)
    if policies.negative_usage is NegativeUsage.CLAMP:
        return group_amount(charge, policies, [])
    return -group_amount(charge, policies, [-sum(values, ZERO)])


def paid_units(charge: Charge, quantity: Fraction) -> Fraction:
    """Units in which the price is quoted, less those included."""
    units = quantity / charge.per
    if charge.round_units is not None:
        up = charge.round_units is Rounding.UP
        units = Fraction(-(-units // 1) if up else units // 1)
    return max(units - Fraction(charge.included) / charge.per, ZERO)


def group_amount(charge: Charge, policies: Policies, values: list[Fraction]) -> Fraction:
    """What uses cost that count together, in order."""
    price = charge.price
    if isinstance(price, Percentage):
        return transactions(price, values)
    paid = paid_units(charge, sum(values, ZERO))
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
    reached = paid
    lost = policies.allowance_in_volume is AllowanceInVolume.BILLABLE_ONCE_EXCEEDED
    if isinstance(price, Volume) and lost and paid:
        paid += Fraction(charge.included) / charge.per
    if paid == 0:
        always = policies.zero_usage_first_flat is FirstFlat.CHARGE
        return Fraction(price.tiers[0].flat) if always else ZERO
    if isinstance(price, Volume):
        return in_tier(charge, tier_of(charge, price.tiers, reached), paid)
    return graduated(charge, price.tiers, paid)


def tier_of(charge: Charge, tiers: tuple[Tier, ...], reached: Fraction) -> Tier:
    """The first tier whose bound is not exceeded."""
    return next(t for t in tiers if t.up_to is None or reached <= Fraction(t.up_to) / charge.per)


def graduated(charge: Charge, tiers: tuple[Tier, ...], paid: Fraction) -> Fraction:
    """Peel the quantity off from the top: what lies above a tier's floor pays that tier."""
    total, rest = ZERO, paid
    floors = [ZERO, *(Fraction(tier.up_to) / charge.per for tier in tiers if tier.up_to)]
    for floor, tier in reversed(list(zip(floors, tiers, strict=True))):
        if rest > floor:
            total += in_tier(charge, tier, rest - floor)
            rest = floor
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
