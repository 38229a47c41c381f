"""Step: quantity times price, for every price model that looks at one group of usage."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import assert_never

from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Rounding,
    Volume,
)
from billing.rating.levels import price_level_graduated, price_level_volume
from billing.rating.percentage import price_transactions
from billing.rating.step import Terms, Weighing, figure
from billing.rating.tiers import price_graduated, price_volume
from billing.rating.unit_conversion import to_priced_units

STEP = "price"


def apply_price(terms: Terms, weighing: Weighing) -> Weighing:
    """Price the quantity by the charge's model."""
    match terms.charge.price:
        case FlatFee(amount=amount):
            return _flat_fee(terms, weighing, amount)
        case PerUnit(price=price):
            return _per_unit(terms, weighing, price)
        case Graduated(tiers=tiers):
            by_tier = price_level_graduated if terms.charge.prorated else price_graduated
            return by_tier(terms, weighing, tiers)
        case Volume(tiers=tiers):
            at_tier = price_level_volume if terms.charge.prorated else price_volume
            return at_tier(terms, weighing, tiers)
        case Package() as package:
            return _packages(terms, weighing, package)
        case Percentage() as percentage:
            return price_transactions(terms, weighing, percentage)
        case Reserved() as reserved:
            return _overage(terms, weighing, reserved)
        case _:
            assert_never(terms.charge.price)


def _flat_fee(terms: Terms, weighing: Weighing, amount: Decimal) -> Weighing:
    share, code = terms.share, terms.currency.code
    if share.is_whole:
        return weighing.priced(STEP, f"once per billing period: {figure(amount)} {code}", amount)
    due = share.of(amount)
    text = f"{share.days} of {share.of_days} days of {figure(amount)} = {figure(due)} {code}"
    return weighing.priced(STEP, text, due)


def _per_unit(terms: Terms, weighing: Weighing, price: Decimal) -> Weighing:
    if weighing.quantity == 0:
        return weighing
    amount = weighing.quantity * price
    text = f"{figure(weighing.quantity)} x {figure(price)} = {figure(amount)}"
    return weighing.priced(STEP, f"{text} {terms.currency.code}", amount)


def _packages(terms: Terms, weighing: Weighing, package: Package) -> Weighing:
    """Whole packages of the period's cumulative quantity, however it is sliced."""
    if weighing.quantity == 0:
        return weighing
    size = to_priced_units(package.size, terms.charge)
    begun = Fraction(weighing.quantity) / Fraction(size)
    count = Decimal(ceil(begun) if package.rounding is Rounding.UP else floor(begun))
    amount = count * package.price
    return weighing.explained(
        "packages",
        f"{figure(weighing.quantity)} / {figure(size)}, rounded {package.rounding.value},"
        f" = {figure(count)} packages",
    ).priced(
        STEP,
        f"{figure(count)} x {figure(package.price)} = {figure(amount)} {terms.currency.code}",
        amount,
    )


def _overage(terms: Terms, weighing: Weighing, reserved: Reserved) -> Weighing:
    """What one window used beyond what was reserved; the reservation is the charge's, not its."""
    committed = to_priced_units(reserved.committed, terms.charge)
    beyond = weighing.quantity - committed
    if beyond <= 0:
        return weighing
    amount = beyond * reserved.overage
    text = (
        f"{figure(weighing.quantity)} - {figure(committed)} reserved = {figure(beyond)};"
        f" {figure(beyond)} x {figure(reserved.overage)} = {figure(amount)}"
    )
    return weighing.priced(STEP, f"{text} {terms.currency.code}", amount)
