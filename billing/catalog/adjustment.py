"""Adjustments: what a charge does to its amount after the price.

Decides: which exist and what makes one well formed. In which order they apply is the rating
pipeline's.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.bounds import require_factor, require_head, require_percent, require_price
from billing.catalog.price import Span
from billing.errors import InvalidPlan

_ONE = Decimal(1)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """An amount that a charge was promised to reach.

    Attributes:
        amount: major units per window; for `PERIOD`, prorated by the days of the contract.
        window: after which the promise starts anew.
        overage_factor: what is beyond the amount costs this many times its price.
        true_up: whether what is missing is billed.
    """

    amount: Decimal
    window: Span = Span.PERIOD
    overage_factor: Decimal = _ONE
    true_up: bool = True

    def __post_init__(self) -> None:
        require_price(self.amount, field="amount")
        require_factor(self.overage_factor, field="overage_factor")
        if self.overage_factor < 1:
            raise InvalidPlan(
                "an overage factor below 1 would be a discount",
                field="overage_factor",
                remedy="use 1 or more, or a tier",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustments:
    """What applies to a charge's amount, whatever its price model.

    Attributes:
        discount_percent: off the exact amount.
        maximum: most that the charge costs in a billing period; None: no bound.
        minimum: least that it costs, prorated by the days of the contract.
        commitment: None: nothing was promised.
    """

    discount_percent: Decimal = _ZERO
    maximum: Decimal | None = None
    minimum: Decimal = _ZERO
    commitment: Commitment | None = None

    def __post_init__(self) -> None:
        require_percent(self.discount_percent, field="discount_percent")
        require_price(self.minimum, field="minimum")
        if self.maximum is not None:
            require_price(self.maximum, field="maximum")
            if self.maximum < self.minimum:
                raise InvalidPlan(
                    "the maximum is below the minimum",
                    field="maximum",
                    remedy="raise it or leave one out",
                )


NO_ADJUSTMENT = Adjustments()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendCommitment:
    """An amount that several charges were promised to reach together.

    Attributes:
        key, description: of the line that bills what is missing.
        amount: major units per billing period, prorated by the days of the contract.
        charges: keys of the charges that count; None: all that are not marked otherwise.
        overage_factor: what is beyond the amount costs this many times its price.
    """

    key: str
    description: str
    amount: Decimal
    charges: frozenset[str] | None = None
    overage_factor: Decimal = _ONE

    def __post_init__(self) -> None:
        require_head(self.key, self.description)
        require_price(self.amount, field="amount")
        require_factor(self.overage_factor, field="overage_factor")
        if self.overage_factor < 1:
            raise InvalidPlan(
                "an overage factor below 1 would be a discount",
                field="overage_factor",
                remedy="use 1 or more, and a discount to charge less",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupon:
    """Money off the sum of several charges, after commitments.

    Attributes:
        key, description: of the line.
        percent_off: of the sum, or
        amount_off: major units, at most the sum; exactly one of the two is above zero.
        charges: keys of the charges that it is for; None: all.
    """

    key: str
    description: str
    percent_off: Decimal = _ZERO
    amount_off: Decimal = _ZERO
    charges: frozenset[str] | None = None

    def __post_init__(self) -> None:
        require_head(self.key, self.description)
        require_percent(self.percent_off, field="percent_off")
        require_price(self.amount_off, field="amount_off")
        if (self.percent_off > 0) == (self.amount_off > 0):
            raise InvalidPlan(
                "a coupon is either a percentage or an amount",
                field="percent_off",
                remedy="give one of percent_off and amount_off",
            )


def require_charges(entry: SpendCommitment | Coupon) -> None:
    """Refuse what is for no charge at all. Not asked of what was sold already.

    Raises:
        InvalidPlan: its list of charges is empty.
    """
    if entry.charges == frozenset():
        raise InvalidPlan(
            "the list of charges is empty",
            field="charges",
            remedy="name those that count, or leave it out for all",
        )
