"""Price models: the ways in which a chargeable quantity becomes an amount.

Decides: which models exist and what makes one well formed. Decides nothing about what comes
before (units, included usage) and after (discount, maximum, minimum, commitment): that belongs
to the charge, and is the same for every model.

Some models of the field are written in a plan and need no class here, because they are one of
these: a percentage of a value is `PerUnit` per 100, graduated percentages are `Graduated` per
100, cost-plus is `PerUnit` on the meter of a cost, an outcome is `PerUnit` on its meter, and a
matrix is a charge per cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from billing.catalog.bounds import (
    require_above_zero,
    require_percent,
    require_price,
    require_quantity,
)
from billing.catalog.tier import Tier, require_tiling
from billing.errors import InvalidPlan

_ZERO = Decimal(0)


class Rounding(StrEnum):
    """What happens to a package that is only begun."""

    UP = "up"
    DOWN = "down"


class Span(StrEnum):
    """A stretch of local time after which counting starts again."""

    PERIOD = "period"
    DAY = "day"
    HOUR = "hour"
    QUARTER_HOUR = "quarter_hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFee:
    """A fixed amount, charged once per billing period whatever was used.

    Attributes:
        amount: major units of the plan's currency.
    """

    amount: Decimal

    def __post_init__(self) -> None:
        require_price(self.amount, field="amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    """One price for every `per` units of the charge.

    Attributes:
        price: major units of the plan's currency.
    """

    price: Decimal

    def __post_init__(self) -> None:
        require_price(self.price, field="price")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each unit is priced by the tier that it falls into.

    Attributes:
        tiers: in rising order; only the last is open.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        require_tiling(self.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """All units are priced by the tier that the whole quantity falls into.

    Attributes:
        tiers: in rising order; only the last is open.
    """

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        require_tiling(self.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Units are sold in packages.

    Attributes:
        size: units of the meter in a package.
        price: major units for one package.
        rounding: whether a package that is begun is paid whole or not at all.
    """

    size: Decimal
    price: Decimal
    rounding: Rounding = Rounding.UP

    def __post_init__(self) -> None:
        require_above_zero(self.size, field="size")
        require_price(self.price, field="price")


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentage:
    """A share of the value of each transaction.

    Rated from the single transactions in their order, since what is free and what is bounded
    depends on each of them.

    Attributes:
        percent: of the value, 0 to 100.
        fixed: added for each transaction that is not free.
        free_transactions: how many of a billing period's first transactions are free; None: no
            transaction is free because of its number.
        free_value: value up to which they are free; None: no such bound.
        minimum: least for a transaction that is not free, `fixed` included.
        maximum: most for one; None: no bound.
    """

    percent: Decimal
    fixed: Decimal = _ZERO
    free_transactions: int | None = None
    free_value: Decimal | None = None
    minimum: Decimal = _ZERO
    maximum: Decimal | None = None

    def __post_init__(self) -> None:
        require_percent(self.percent, field="percent")
        require_price(self.fixed, field="fixed")
        require_price(self.minimum, field="minimum")
        if self.free_transactions is not None and self.free_transactions < 0:
            raise InvalidPlan(
                "a number is negative", field="free_transactions", remedy="use 0 or more"
            )
        if self.free_value is not None:
            require_quantity(self.free_value, field="free_value")
        if self.maximum is not None:
            require_price(self.maximum, field="maximum")
            if self.maximum < self.minimum:
                raise InvalidPlan(
                    "the maximum is below the minimum",
                    field="maximum",
                    remedy="raise it or leave one out",
                )

    @property
    def is_plain(self) -> bool:
        """Whether it is of the sum, so that single transactions need not be known."""
        return self == Percentage(percent=self.percent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """Capacity that is paid whether it is used or not, and what goes beyond it.

    Attributes:
        committed: units of the meter per window: tokens per second times its seconds, or hours.
        window: how long committed units last; what is not used in one is not there in the next.
        price: major units for `per` committed units.
        overage: major units for `per` units beyond those of a window.
        shortfall: major units given back for `per` committed units that were not used.
    """

    committed: Decimal
    window: Span
    price: Decimal
    overage: Decimal
    shortfall: Decimal = _ZERO

    def __post_init__(self) -> None:
        require_above_zero(self.committed, field="committed")
        require_price(self.price, field="price")
        require_price(self.overage, field="overage")
        require_price(self.shortfall, field="shortfall")
        if self.shortfall > self.price:
            raise InvalidPlan(
                "more is given back than was paid",
                field="shortfall",
                remedy="use at most the price of a committed unit",
            )


Price: TypeAlias = FlatFee | PerUnit | Graduated | Volume | Package | Percentage | Reserved
