"""Step: a percentage off what the price made of the quantity."""

from __future__ import annotations

from decimal import Decimal

from billing.rating.step import Terms, Weighing, figure


def discount(terms: Terms, weighing: Weighing) -> Weighing:
    """Take the charge's percentage off what was used, and off what was committed and not used."""
    percent = terms.charge.adjustments.discount_percent
    if percent == 0:
        return weighing
    unused = weighing.unused.exact
    if weighing.exact:
        weighing = weighing.priced("discount", *_off(terms, percent, weighing.exact))
    if unused:
        weighing = weighing.short("discount", *_off(terms, percent, unused))
    return weighing


def _off(terms: Terms, percent: Decimal, exact: Decimal) -> tuple[str, Decimal]:
    amount = -exact * percent.scaleb(-2)
    text = f"{figure(percent)} % off {figure(exact)} = {figure(amount)} {terms.currency.code}"
    return text, amount
