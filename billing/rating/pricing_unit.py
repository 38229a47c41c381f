"""Step: the price, and where it is quoted in a pricing unit, what that is in the currency."""

from __future__ import annotations

from dataclasses import replace

from billing.rating.price import apply_price
from billing.rating.step import Terms, Weighing, figure

STEP = "pricing_unit"


def price_in_currency(terms: Terms, weighing: Weighing) -> Weighing:
    """Price the quantity; amounts in a pricing unit are explained in it and then converted."""
    unit = terms.charge.pricing_unit
    if unit is None:
        return apply_price(terms, weighing)
    in_unit = replace(terms, currency=replace(terms.currency, code=unit.name))
    priced = apply_price(in_unit, weighing)
    if priced is weighing:
        return weighing
    # Their amounts are not money, and the notes of a line add up to its amount.
    notes = tuple(replace(note, amount=None) for note in priced.explanation)
    amount = priced.exact * unit.rate
    text = f"{figure(priced.exact)} {unit.name} x {figure(unit.rate)} = {figure(amount)}"
    return replace(weighing, quantity=priced.quantity, explanation=notes).priced(
        STEP, f"{text} {terms.currency.code}", amount
    )
