"""Metered quantities: what rating is asked to price.

Decides: which quantities can be rated at all. Decides nothing about how they were aggregated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import EXACT, QUANTITY_DECIMALS_MAX, QUANTITY_MAX, decimals_of

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantity:
    """Usage of one meter and model in one slice of one contract's billing period.

    Attributes:
        meter: code of the meter.
        model: name of the model, or None where the meter knows none.
        quantity: in units of the meter, in this slice.
        before: the same meter, model and dimensions, from the start of the billing period to the
            slice.
        dimensions: names and values, sorted by name; those alone that a charge asks for need to
            be here.
        at: start of the quarter hour in which it was used; None where no charge asks.
        transactions: values of the single events in their order (time, then ledger order), where
            a charge asks for them; they add up to the quantity.

    Raises:
        InvalidInput: a negative quantity, more decimals than the ledger keeps, or transactions
            that do not add up.
        AmountOutOfRange: more than 10^18 units.
    """

    meter: str
    model: str | None = None
    quantity: Decimal
    before: Decimal = _ZERO
    dimensions: tuple[tuple[str, str], ...] = ()
    at: datetime | None = None
    transactions: tuple[Decimal, ...] = ()

    def __post_init__(self) -> None:
        _require_quantity(self.quantity, field="quantity")
        _require_quantity(self.before, field="before")
        if self.transactions:
            total = _ZERO
            for value in self.transactions:
                _require_quantity(value, field="transactions")
                total = EXACT.add(total, value)
            if total != self.quantity:
                raise InvalidInput("transactions do not add up", field="transactions")


def _require_quantity(quantity: Decimal, *, field: str) -> None:
    if not quantity.is_finite():
        raise InvalidInput("not a finite number", field=field)
    if quantity < 0:
        raise InvalidInput(
            "usage is negative",
            field=field,
            remedy="report a correction of the event; a period's usage is never below zero",
        )
    if quantity > QUANTITY_MAX:
        raise AmountOutOfRange("usage out of range", field=field, remedy=f"at most {QUANTITY_MAX}")
    if decimals_of(quantity) > QUANTITY_DECIMALS_MAX:
        raise InvalidInput(f"more than {QUANTITY_DECIMALS_MAX} decimals", field=field)
