"""Metered quantities: what rating is asked to price.

Decides: which quantities can be rated at all. Decides nothing about how they were aggregated.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import QUANTITY_DECIMALS_MAX, QUANTITY_MAX, decimals_of

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeteredQuantity:
    """Usage of one meter and model in one slice of one contract's billing period.

    Attributes:
        meter: code of the meter.
        model: name of the model, or None where the meter knows none.
        quantity: in units of the meter, in this slice.
        before: the same meter and model, from the start of the billing period to the slice.

    Raises:
        InvalidInput: a negative quantity or more decimals than the ledger keeps.
        AmountOutOfRange: more than 10^18 units.
    """

    meter: str
    model: str | None = None
    quantity: Decimal
    before: Decimal = _ZERO

    def __post_init__(self) -> None:
        _require_quantity(self.quantity, field="quantity")
        _require_quantity(self.before, field="before")


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
