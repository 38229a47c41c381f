"""Charges: what a plan sells, at which price, and how that price is bent.

Decides: what makes a charge whole and when two charges would price the same quantity (D16).
Decides nothing about amounts: that is rating.

Quantities in a charge (`included`, `up_to`) are in the meter's own unit; `per` only says how many
of them a price is for. A plan that reads "0.40 per 1000000, first 10000000 tokens" can then not
be misread by a factor of a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations

from billing.catalog.adjustment import NO_ADJUSTMENT, Adjustments
from billing.catalog.bounds import (
    PER_MAX,
    is_power_of_ten,
    require_head,
    require_per,
    require_quantity,
)
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Percentage,
    PerUnit,
    Price,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.pricing_unit import PricingUnit
from billing.catalog.selector import Selector
from billing.errors import InvalidPlan
from billing.metering.dimension import require_dimension

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One thing that is sold.

    Attributes:
        key: stable name of the charge within its plan; it becomes the line's key.
        description: what the invoice calls it.
        price: how a chargeable quantity becomes an amount.
        selector: the usage that it prices; None exactly for a flat fee.
        per: units of the meter that a price is for: 1 or a larger power of ten, so that the
            division is exact; any number where `round_units` says what happens to the rest.
        round_units: whether the converted quantity of the period is rounded to whole units, and
            how; None: it is not.
        included: units of the meter that are free in every billing period.
        split_by: dimensions; included usage and tiers count each combination of their values by
            itself instead of the whole charge.
        restart: when included usage and tiers start again.
        prorated: whether the meter is a level (seats, capacity) whose units count for the days of
            the billing period that they last: tiers by units, prices on prorated units.
        adjustments: discount, maximum, minimum, commitment.
        pricing_unit: what the price is quoted in; None: the plan's currency.
        in_advance: whether it is billed at the start of its period; flat fees only.
    """

    key: str
    description: str
    price: Price
    selector: Selector | None = None
    per: int = 1
    round_units: Rounding | None = None
    included: Decimal = _ZERO
    split_by: tuple[str, ...] = ()
    restart: Span = Span.PERIOD
    prorated: bool = False
    adjustments: Adjustments = NO_ADJUSTMENT
    pricing_unit: PricingUnit | None = None
    in_advance: bool = False

    def __post_init__(self) -> None:
        require_head(self.key, self.description)
        require_quantity(self.included, field="included")
        for position, name in enumerate(self.split_by):
            require_dimension(name, field=f"split_by[{position}]")
        if len(set(self.split_by)) < len(self.split_by):
            raise InvalidPlan("a dimension is named twice", field="split_by", remedy="name it once")
        self._require_units()
        if self.pricing_unit is not None and isinstance(self.price, Reserved):
            raise InvalidPlan(
                "a reservation is priced in the currency", field="unit", remedy="leave it out"
            )
        fee = isinstance(self.price, FlatFee)
        if fee is not (self.selector is None):
            raise InvalidPlan(
                "a flat fee counts nothing, and every other charge counts something",
                field="meter",
                remedy="leave it out of a flat fee, or name a meter",
            )
        if fee and (self.included or self.split_by or self.restart is not Span.PERIOD):
            raise InvalidPlan("a flat fee counts nothing", field="included", remedy="leave it out")
        self._require_windows()
        if self.prorated:
            self._require_level()
        if self.in_advance and not fee:
            raise InvalidPlan(
                "what is used is known only afterwards",
                field="in_advance",
                remedy="bill flat fees in advance, and usage in arrears",
            )

    def _require_windows(self) -> None:
        """What is promised or reserved per window is of the whole charge in each of them."""
        window = Span.PERIOD
        if isinstance(self.price, Reserved):
            window = self.price.window
        elif (promised := self.adjustments.commitment) is not None:
            window = promised.window
        if (window is not Span.PERIOD or isinstance(self.price, Reserved)) and self.split_by:
            raise InvalidPlan(
                "a promise per window is not split",
                field="split_by",
                remedy="write a charge for each value",
            )
        if window is not Span.PERIOD and self.restart not in {Span.PERIOD, window}:
            raise InvalidPlan(
                "counting starts again with the window of the promise",
                field="restart",
                remedy="leave it out",
            )

    def _require_level(self) -> None:
        """Prorated units are no whole units, so that nothing which counts whole ones fits them."""
        tiers = self.price.tiers if isinstance(self.price, Graduated | Volume) else ()
        if (
            not isinstance(self.price, PerUnit | Graduated | Volume)
            or self.per != 1
            or self.round_units is not None
            or self.included
            or self.restart is not Span.PERIOD
            or self.split_by
            or (self.selector is not None and self.selector.window is not None)
            or any(tier.package or tier.cap is not None or tier.minimum for tier in tiers)
        ):
            raise InvalidPlan(
                "prorated units have a price per unit or plain tiers",
                field="prorated",
                remedy="leave out per, included, split_by, restart, during, package, cap, minimum",
            )

    def _require_units(self) -> None:
        if self.round_units is None:
            require_per(self.per)
        elif not 1 <= self.per <= PER_MAX:
            raise InvalidPlan("out of range", field="per", remedy=f"use 1 to {PER_MAX}")
        elif not is_power_of_ten(self.per) and self.included % self.per:
            raise InvalidPlan(
                "included usage is not a whole number of converted units",
                field="included",
                remedy=f"use a multiple of {self.per}",
            )
        if isinstance(self.price, Percentage) and self.per != 1:
            raise InvalidPlan("a percentage is of the value itself", field="per", remedy="use 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two charges that would both price some quantity.

    Attributes:
        first, second: positions of the two in the sequence that was checked, first < second.
        meter: the meter that they share.
        models: the models that they share; None: any model.
    """

    first: int
    second: int
    meter: str
    models: frozenset[str] | None


def find_overlaps(charges: Sequence[Charge]) -> list[Overlap]:
    """Every pair of charges that would price one quantity twice (D16).

    Used when a plan is read, and over the charges of all active contracts of a tenant when one
    more is bound.
    """
    by_meter: dict[str, list[tuple[int, Selector]]] = {}
    for position, charge in enumerate(charges):
        if charge.selector is not None:
            by_meter.setdefault(charge.selector.meter, []).append((position, charge.selector))
    return [
        Overlap(first=first, second=second, meter=meter, models=_shared(left, right))
        for meter, entries in by_meter.items()
        for (first, left), (second, right) in combinations(entries, 2)
        if left.intersects(right)
    ]


def _shared(left: Selector, right: Selector) -> frozenset[str] | None:
    if left.models is None:
        return right.models
    return left.models if right.models is None else left.models & right.models
