"""Charges: the ways in which a plan prices usage.

Decides: which kinds of charge exist, what makes one well formed, when two would price the same
quantity (D16). Decides nothing about amounts: that is rating.

Quantities in a charge (`included`, `up_to`) are in the meter's own unit; `per` only says how many
of them a price is for. A plan that reads "0.40 per 1000000, first 10000000 tokens" can then not
be misread by a factor of a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from typing import TypeAlias, assert_never

from billing.catalog.selector import OUTCOME_PREFIX, Selector, require_key, require_slug
from billing.errors import InvalidPlan
from billing.money import (
    PRICE_DECIMALS_MAX,
    QUANTITY_DECIMALS_MAX,
    QUANTITY_MAX,
    decimals_of,
)

PER_MAX = 10**12
"""Largest number of units that a price may be quoted for."""

TIERS_MAX = 100
"""Most tiers of one charge."""

_PRICE_LIMIT = Decimal(10) ** 18
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFee:
    """A fixed amount, charged once per billing period whatever was used.

    Attributes:
        key: stable name of the charge within its plan; it becomes the line's key.
        description: what the invoice calls it.
        amount: major units of the plan's currency.
    """

    key: str
    description: str
    amount: Decimal

    def __post_init__(self) -> None:
        _require_head(self.key, self.description)
        _require_price(self.amount, field="amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerUnit:
    """One price for every unit.

    Attributes:
        key, description: as for `FlatFee`.
        selector: the usage that it prices.
        price: major units of the plan's currency for `per` units of the meter.
        per: 1 or a larger power of ten, so that the division is exact.
        included: units of the meter that are free in every billing period.
    """

    key: str
    description: str
    selector: Selector
    price: Decimal
    per: int = 1
    included: Decimal = _ZERO

    def __post_init__(self) -> None:
        _require_head(self.key, self.description)
        _require_price(self.price, field="price")
        _require_per(self.per)
        _require_quantity(self.included, field="included")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A stretch of quantity with its own price.

    Attributes:
        up_to: last quantity of the tier, inclusive, in units of the meter; None: without end.
        unit: price for the charge's `per` units that fall into this tier.
        flat: charged once per billing period, when the first unit falls into this tier.
    """

    up_to: Decimal | None
    unit: Decimal
    flat: Decimal = _ZERO

    def __post_init__(self) -> None:
        if self.up_to is not None:
            _require_quantity(self.up_to, field="up_to")
        _require_price(self.unit, field="unit")
        _require_price(self.flat, field="flat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graduated:
    """Each unit is priced by the tier that it falls into.

    Tiers begin at zero, follow one another without a gap and end open. They count the whole
    charge over all models that it selects, and start again in every billing period.

    Attributes:
        key, description, selector, per: as for `PerUnit`.
        tiers: in rising order; only the last is open.
    """

    key: str
    description: str
    selector: Selector
    tiers: tuple[Tier, ...]
    per: int = 1

    def __post_init__(self) -> None:
        _require_head(self.key, self.description)
        _require_per(self.per)
        _require_tiling(self.tiers)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomePrice:
    """A price for every confirmed outcome of one definition.

    Attributes:
        key, description: as for `FlatFee`.
        outcome: slug of the outcome definition.
        price: major units of the plan's currency for one outcome.
    """

    key: str
    description: str
    outcome: str
    price: Decimal

    def __post_init__(self) -> None:
        _require_head(self.key, self.description)
        require_slug(self.outcome, field="outcome")
        _require_price(self.price, field="price")

    @property
    def meter(self) -> str:
        """Code of the meter that counts confirmed outcomes of this definition."""
        return f"{OUTCOME_PREFIX}{self.outcome}"


Charge: TypeAlias = FlatFee | PerUnit | Graduated | OutcomePrice


def selector_of(charge: Charge) -> Selector | None:
    """What usage a charge prices; None if it prices none."""
    match charge:
        case FlatFee():
            return None
        case PerUnit() | Graduated():
            return charge.selector
        case OutcomePrice():
            return Selector(meter=charge.meter)
        case _:
            assert_never(charge)


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
        selector = selector_of(charge)
        if selector is not None:
            by_meter.setdefault(selector.meter, []).append((position, selector))
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


def _require_head(key: str, description: str) -> None:
    require_key(key)
    if not description.strip() or len(description) > 200 or not description.isprintable():
        raise InvalidPlan(
            "empty, overlong or unprintable text",
            field="description",
            remedy="describe the charge in one line of at most 200 characters",
        )


def _require_price(price: Decimal, *, field: str) -> None:
    if not price.is_finite() or price < 0:
        raise InvalidPlan("a price is negative", field=field, remedy="use zero or more")
    _require_digits(price, field=field, decimals=PRICE_DECIMALS_MAX, limit=_PRICE_LIMIT)


def _require_quantity(quantity: Decimal, *, field: str) -> None:
    if not quantity.is_finite() or quantity < 0:
        raise InvalidPlan("a quantity is negative", field=field, remedy="use zero or more")
    _require_digits(quantity, field=field, decimals=QUANTITY_DECIMALS_MAX, limit=QUANTITY_MAX)


def _require_digits(number: Decimal, *, field: str, decimals: int, limit: Decimal) -> None:
    if number > limit:
        raise InvalidPlan("number out of range", field=field, remedy=f"at most {limit:f}")
    if decimals_of(number) > decimals:
        raise InvalidPlan(f"more than {decimals} decimals", field=field, remedy="shorten it")


def _require_per(per: int) -> None:
    if not 1 <= per <= PER_MAX or str(per).strip("0") != "1":
        raise InvalidPlan(
            "not a power of ten",
            field="per",
            remedy=f"use 1, 1000, 1000000 or another power of ten up to {PER_MAX}",
        )


def _require_tiling(tiers: tuple[Tier, ...]) -> None:
    """Tiers start at zero, rise, and end open; anything else leaves usage without a price."""
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
