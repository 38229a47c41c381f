"""Step: quantity times price, for every kind of charge."""

from __future__ import annotations

from decimal import Decimal
from typing import assert_never

from billing.catalog.charge import FlatFee, Graduated, OutcomePrice, PerUnit
from billing.rating.step import Terms, Weighing, figure
from billing.rating.tiers import price_tiers

STEP = "price"


def apply_price(terms: Terms, weighing: Weighing) -> Weighing:
    """Price the slice by the charge's model."""
    match terms.charge:
        case FlatFee(amount=amount):
            return _flat_fee(terms, weighing, amount)
        case PerUnit(price=price) | OutcomePrice(price=price):
            return _per_unit(terms, weighing, price)
        case Graduated():
            return price_tiers(terms, weighing, terms.charge)
        case _:
            assert_never(terms.charge)


def _flat_fee(terms: Terms, weighing: Weighing, amount: Decimal) -> Weighing:
    """The fee belongs to the slice that opens the period, so that no later slice repeats it."""
    if not terms.opens_period:
        return weighing
    share = terms.share
    if share.is_whole:
        text = f"once per billing period: {figure(amount)} {terms.currency_code}"
        return weighing.priced(STEP, text, amount)
    due = share.of(amount)
    text = (
        f"{share.days} of {share.of_days} days of {figure(amount)} = "
        f"{figure(due)} {terms.currency_code}"
    )
    return weighing.priced(STEP, text, due)


def _per_unit(terms: Terms, weighing: Weighing, price: Decimal) -> Weighing:
    amount = weighing.quantity * price
    return weighing.priced(
        STEP,
        f"{figure(weighing.quantity)} x {figure(price)} = {figure(amount)} {terms.currency_code}",
        amount,
    )
