"""Percentage of transactions: each event's value by itself, in order.

Decides: which transactions are free, and what one costs. The first `free_transactions` are free
as long as the running total of values stays within `free_value`; what exceeds the total is charged
on its part above it. Minimum and maximum are of percentage and fixed amount together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.price import Percentage
from billing.errors import InvalidInput
from billing.rating.step import Terms, Weighing, figure

_ZERO = Decimal(0)
_SHOWN = 20
"""Most transactions that an explanation lists one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charged:
    """A transaction with its chargeable value and what that costs."""

    value: Decimal
    chargeable: Decimal
    amount: Decimal


def price_transactions(terms: Terms, weighing: Weighing, price: Percentage) -> Weighing:
    """Price every transaction by the charge's percentage.

    Raises:
        InvalidInput: the price looks at single transactions, and they are not known.
    """
    code = terms.currency.code
    if weighing.quantity and not weighing.transactions:
        if not price.is_plain:
            raise InvalidInput(
                "the charge looks at single transactions, and the usage names none",
                field="transactions",
                remedy="hand in usage by event",
            )
        amount = weighing.quantity * price.percent.scaleb(-2)
        text = f"{figure(weighing.quantity)} at {figure(price.percent)} % = {figure(amount)} {code}"
        return weighing.priced("price", text, amount)
    charged = tuple(_charge(weighing, price))
    if not charged:
        return weighing
    free = sum(one.value - one.chargeable for one in charged)
    if free > 0:
        weighing = weighing.explained("included_usage", f"{figure(Decimal(free))} free of charge")
    if len(charged) > _SHOWN:
        amount = sum((one.amount for one in charged), _ZERO)
        text = f"{len(charged):,} transactions: {figure(amount)} {code}"
        return weighing.priced("price", text, amount)
    for one in charged:
        text = (
            f"{figure(one.chargeable)} at {figure(price.percent)} %"
            f" and {figure(price.fixed)}: {figure(one.amount)} {code}"
        )
        weighing = weighing.priced("price", text, one.amount)
    return weighing


def _charge(weighing: Weighing, price: Percentage) -> Iterator[_Charged]:
    total = _ZERO
    for position, value in enumerate(weighing.transactions):
        before, total = total, total + value
        chargeable = _chargeable(price, position, before, value)
        amount = _ZERO
        if chargeable is not None:
            amount = chargeable * price.percent.scaleb(-2) + price.fixed
            amount = max(amount, price.minimum)
            if price.maximum is not None:
                amount = min(amount, price.maximum)
        yield _Charged(value=value, chargeable=chargeable or _ZERO, amount=amount)


def _chargeable(
    price: Percentage, position: int, before: Decimal, value: Decimal
) -> Decimal | None:
    """The part of a transaction's value that is charged; None if the transaction is free."""
    if price.free_transactions is None and price.free_value is None:
        return value
    if price.free_transactions is not None and position >= price.free_transactions:
        return value
    if price.free_value is None:
        return None
    left = max(price.free_value - before, _ZERO)
    return value - left if value > left else None
