"""Step: a percentage off what the price made of the quantity."""

from __future__ import annotations

from billing.rating.step import Terms, Weighing, figure


def discount(terms: Terms, weighing: Weighing) -> Weighing:
    """Take the charge's percentage off its exact amount."""
    percent = terms.charge.adjustments.discount_percent
    if percent == 0 or weighing.exact == 0:
        return weighing
    amount = -weighing.exact * percent.scaleb(-2)
    return weighing.priced(
        "discount",
        f"{figure(percent)} % off {figure(weighing.exact)} = {figure(amount)}"
        f" {terms.currency.code}",
        amount,
    )
