"""What numbers and texts a plan may hold.

Decides: which prices, quantities, percentages and texts are in range. Every refusal names the
field below the value that is being made; the reader of the plan adds where that stands.
"""

from __future__ import annotations

from decimal import Decimal

from billing.catalog.selector import require_key
from billing.errors import InvalidPlan
from billing.money import (
    PRICE_DECIMALS_MAX,
    QUANTITY_DECIMALS_MAX,
    QUANTITY_MAX,
    decimals_of,
)

PER_MAX = 10**12
"""Largest number of units that a price may be quoted for."""

FACTOR_MAX = Decimal(1000)
"""Largest factor on a price."""

_PRICE_LIMIT = Decimal(10) ** 18
_HUNDRED = Decimal(100)


def require_head(key: str, description: str) -> None:
    """Refuse a malformed key or a description that an invoice cannot show."""
    require_key(key)
    require_line(description, field="description")


def require_line(text: str, *, field: str) -> None:
    """Refuse what is not one printable line of at most 200 characters."""
    if not text.strip() or len(text) > 200 or not text.isprintable():
        raise InvalidPlan(
            "empty, overlong or unprintable text",
            field=field,
            remedy="describe it in one line of at most 200 characters",
        )


def require_price(price: Decimal, *, field: str) -> None:
    """Refuse a price below zero, beyond 10^18 or finer than 10^-18."""
    if not price.is_finite() or price < 0:
        raise InvalidPlan("a price is negative", field=field, remedy="use zero or more")
    _require_digits(price, field=field, decimals=PRICE_DECIMALS_MAX, limit=_PRICE_LIMIT)


def require_quantity(quantity: Decimal, *, field: str) -> None:
    """Refuse a quantity below zero, beyond 10^18 or finer than 10^-18."""
    if not quantity.is_finite() or quantity < 0:
        raise InvalidPlan("a quantity is negative", field=field, remedy="use zero or more")
    _require_digits(quantity, field=field, decimals=QUANTITY_DECIMALS_MAX, limit=QUANTITY_MAX)


def require_above_zero(quantity: Decimal, *, field: str) -> None:
    """Refuse a quantity that is not above zero; else as `require_quantity`."""
    require_quantity(quantity, field=field)
    if quantity == 0:
        raise InvalidPlan("a quantity is zero", field=field, remedy="use more than zero")


def require_percent(percent: Decimal, *, field: str) -> None:
    """Refuse what is not from 0 to 100."""
    require_price(percent, field=field)
    if percent > _HUNDRED:
        raise InvalidPlan("more than 100 percent", field=field, remedy="use 0 to 100")


def require_factor(factor: Decimal, *, field: str) -> None:
    """Refuse a factor below zero or above 1000."""
    require_price(factor, field=field)
    if factor > FACTOR_MAX:
        raise InvalidPlan("a factor is out of range", field=field, remedy=f"at most {FACTOR_MAX}")


def is_power_of_ten(number: int) -> bool:
    """Whether dividing by the number only moves the point, so that no digit is lost."""
    return number >= 1 and str(number).strip("0") == "1"


def require_per(per: int) -> None:
    """Refuse a `per` by which a division could be inexact."""
    if per > PER_MAX or not is_power_of_ten(per):
        raise InvalidPlan(
            "not a power of ten",
            field="per",
            remedy=f"use 1, 1000, 1000000 or another power of ten up to {PER_MAX}",
        )


def _require_digits(number: Decimal, *, field: str, decimals: int, limit: Decimal) -> None:
    if number > limit:
        raise InvalidPlan("number out of range", field=field, remedy=f"at most {limit:f}")
    if decimals_of(number) > decimals:
        raise InvalidPlan(f"more than {decimals} decimals", field=field, remedy="shorten it")
