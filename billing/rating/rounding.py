"""Closing a line: the only place in rating where digits are cut."""

from __future__ import annotations

from billing.money import Currency, Money, to_minor
from billing.rating.line import ExplanationStep
from billing.rating.step import Weighing, figure


def round_line(weighing: Weighing, currency: Currency) -> tuple[Money, ExplanationStep]:
    """The amount in minor units, half up, and the sum that leads to it.

    Raises:
        AmountOutOfRange: more than an invoice can carry.
    """
    amount = Money(minor=to_minor(weighing.exact, currency), currency=currency)
    addends = [step.amount for step in weighing.explanation if step.amount is not None]
    total = figure(weighing.exact)
    if len(addends) > 1:
        total = f"{' + '.join(figure(addend) for addend in addends)} = {total}"
    return amount, ExplanationStep(step="rounding", text=f"{total}, rounded {amount}")
