"""Tiers: stretches of quantity, each with a price of its own.

Decides: what makes a list of tiers whole. It starts at zero, rises and ends open, so that no
quantity lies in two of them or in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.bounds import require_above_zero, require_price, require_quantity
from billing.errors import InvalidPlan

TIERS_MAX = 100
"""Most tiers of one charge."""

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A stretch of quantity with its own price.

    Attributes:
        up_to: last quantity of the tier, inclusive, in units of the meter; None: without end.
        unit: price for the charge's `per` units that fall into this tier, or for a `package`.
        flat: charged once per billing period, when the first unit falls into this tier.
        package: units of the meter that are sold together in this tier, a begun one whole; None:
            every unit by itself.
        cap: the most that the tier's units cost together, its flat fee apart; None: no cap.
        minimum: the least that they cost once the tier is entered.
    """

    up_to: Decimal | None
    unit: Decimal
    flat: Decimal = _ZERO
    package: Decimal | None = None
    cap: Decimal | None = None
    minimum: Decimal = _ZERO

    def __post_init__(self) -> None:
        if self.up_to is not None:
            require_quantity(self.up_to, field="up_to")
        require_price(self.unit, field="unit")
        require_price(self.flat, field="flat")
        require_price(self.minimum, field="minimum")
        if self.package is not None:
            require_above_zero(self.package, field="package")
        if self.cap is not None:
            require_price(self.cap, field="cap")
            if self.cap < self.minimum:
                raise InvalidPlan(
                    "the cap is below the minimum", field="cap", remedy="raise it or leave one out"
                )


def require_tiling(tiers: Sequence[Tier]) -> None:
    """Refuse tiers that leave usage without a price or price it twice.

    Raises:
        InvalidPlan: `field` is a path like `tiers[1].up_to`.
    """
    if not tiers:
        raise InvalidPlan("no tiers", field="tiers", remedy="give at least one, open tier")
    if len(tiers) > TIERS_MAX:
        raise InvalidPlan("too many tiers", field="tiers", remedy=f"at most {TIERS_MAX}")
    reached = _ZERO
    for position, tier in enumerate(tiers):
        last = position == len(tiers) - 1
        field = f"tiers[{position}].up_to"
        if tier.up_to is None:
            if not last:
                raise InvalidPlan(
                    "an open tier is followed by another; they overlap",
                    field=field,
                    remedy="only the last tier is open",
                )
            return
        if last:
            raise InvalidPlan(
                "the last tier ends; usage beyond it would have no price",
                field=field,
                remedy="leave up_to out of the last tier",
            )
        if tier.up_to <= reached:
            raise InvalidPlan(
                "tiers overlap or do not rise",
                field=field,
                remedy="give each tier a larger up_to than the one before it, above zero",
            )
        reached = tier.up_to
