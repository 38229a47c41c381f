"""The one rounding of a line: exact amounts in, minor units out, with the sum that leads there."""

from __future__ import annotations

from billing.money import Currency, Money, to_minor
from billing.rating.line import ExplanationStep
from billing.rating.step import Weighing, figure


def round_line(
    through: Weighing, before: Weighing | None, currency: Currency
) -> tuple[Money, ExplanationStep]:
    """The slice's amount in minor units, half up, and the sum that leads to it.

    Args:
        through: what the period costs with the slice.
        before: what it cost without it; None for a slice that begins the period.

    Raises:
        AmountOutOfRange: more than an invoice can carry.
    """
    amount = Money(minor=to_minor(through.exact, currency), currency=currency)
    addends = [step.amount for step in through.explanation if step.amount is not None]
    text = figure(through.exact)
    if len(addends) > 1:
        text = f"{' + '.join(figure(addend) for addend in addends)} = {text}"
    text = f"{text}, rounded {amount}"
    if before is not None:
        earlier = Money(minor=to_minor(before.exact, currency), currency=currency)
        text = f"{text}, less {earlier} up to the slice = {amount - earlier}"
        amount = amount - earlier
    return amount, ExplanationStep(step="rounding", text=text)
