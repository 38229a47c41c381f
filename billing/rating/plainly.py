"""What a plan of plain charges comes to, without a line: for who posts amounts and shows nothing.

Decides: when the amounts are known from meters, models and quantities alone. Where they are not
(another charge, a correction below zero, usage without a price, a figure out of range), `rate`
tells the amounts or the error; where they are, they are those of its lines, and a test compares
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, Inexact, localcontext
from typing import TypeAlias

from billing.money import EXACT, QUANTITY_DECIMALS_MAX, QUANTITY_MAX, decimals_of
from billing.rating.compiled import CompiledPlan
from billing.rating.proration import DayShare

_ZERO = Decimal(0)
_LIMIT = Decimal(10) ** 16
"""Major units below which every amount fits an invoice."""

PlainUse: TypeAlias = tuple[str, str | None, Decimal, bool]
"""Meter, model, quantity, and whether it needs no price."""


def plain_amounts(
    ready: CompiledPlan, usage: Iterable[PlainUse], share: DayShare
) -> dict[str, Decimal] | None:
    """Exact major units by line key, of usage since the start of the billing period.

    Returns:
        None where it takes `rate` to know.
    """
    if not ready.all_plain:
        return None
    used: dict[str, Decimal] = {}
    meters = ready.meters
    with localcontext(EXACT):
        for meter, model, quantity, informational in usage:
            prices = meters.get(meter)
            charge = None if prices is None else prices.by_model.get(model, prices.of_others)
            if charge is None:
                if informational:
                    continue
                return None
            if quantity < 0 or (
                quantity != int(quantity) and decimals_of(quantity) > QUANTITY_DECIMALS_MAX
            ):
                return None
            key = charge.key
            used[key] = used[key] + quantity if key in used else quantity
        try:
            return _costs(ready, used, share)
        except Inexact:
            return None


def _costs(
    ready: CompiledPlan, used: dict[str, Decimal], share: DayShare
) -> dict[str, Decimal] | None:
    amounts: dict[str, Decimal] = {}
    for each in ready.charges:
        key, plain = each.charge.key, each.plain
        assert plain is not None
        quantity = used.get(key, _ZERO)
        if quantity > QUANTITY_MAX:
            return None
        if exact := plain.costs(quantity, share):
            if not -_LIMIT < exact < _LIMIT:
                return None
            amounts[key] = exact
    return amounts
