"""Step: a promise per hour, day or quarter hour, kept or broken in each of them."""

from __future__ import annotations

from billing.catalog.price import Span
from billing.rating.step import Terms, Weighing, figure


def commit_window(terms: Terms, weighing: Weighing) -> Weighing:
    """Price what exceeds the window's promise at its factor, and note what is missing apart.

    A promise for the whole billing period is compared with a rounded amount, much later.
    """
    promised = terms.charge.adjustments.commitment
    if promised is None or promised.window is Span.PERIOD or weighing.quantity == 0:
        return weighing
    code = terms.currency.code
    beyond = weighing.exact - promised.amount
    if beyond > 0 and promised.overage_factor != 1:
        amount = beyond * (promised.overage_factor - 1)
        return weighing.priced(
            "overage",
            f"{figure(beyond)} beyond {figure(promised.amount)} at"
            f" {figure(promised.overage_factor)} times its price: {figure(amount)} {code}",
            amount,
        )
    if beyond < 0 and promised.true_up:
        return weighing.short(
            "commitment",
            f"{figure(promised.amount)} committed, {figure(weighing.exact)} reached:"
            f" {figure(-beyond)} {code} missing",
            -beyond,
        )
    return weighing
