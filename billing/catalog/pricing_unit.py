"""Pricing units: what prices are quoted in where it is not the currency, such as credits.

Decides: what makes a unit well formed. Only the price itself is in the unit; minimums, maximums
and commitments are in the currency, since they are of what is paid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.bounds import require_price
from billing.errors import InvalidPlan
from billing.money import decimals_of

RATE_DECIMALS_MAX = 9
"""A price has up to 18 decimals; with these its product with a quantity can still be exact."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PricingUnit:
    """A unit of account with a fixed rate.

    Attributes:
        name: in the plural, as explanations call it.
        rate: major units of the plan's currency for one.
    """

    name: str
    rate: Decimal

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise InvalidPlan("malformed name", field="", remedy="write it like credits")
        require_price(self.rate, field="rate")
        if self.rate == 0 or decimals_of(self.rate) > RATE_DECIMALS_MAX:
            raise InvalidPlan(
                f"zero, or more than {RATE_DECIMALS_MAX} decimals",
                field="rate",
                remedy="say what one is worth in the plan's currency",
            )
