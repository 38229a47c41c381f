"""Rated lines: what rating answers.

Decides: the shape of a line, of its explanation and of usage that has no price. Decides no
amounts.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from billing.money import Currency, Money


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationStep:
    """One line of arithmetic behind an amount.

    Attributes:
        step: name of the pipeline step that did it.
        text: the arithmetic, written so that it can be redone by hand.
        amount: what the step adds to the line, in major units; None if it adds nothing.
    """

    step: str
    text: str
    amount: Decimal | None = None


class LineKind(StrEnum):
    """What a line is: the charge itself, what its windows left unused, or what bends its amount."""

    CHARGE = "charge"
    SHORTFALL = "shortfall"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    TRUE_UP = "true_up"
    OVERAGE = "overage"
    COUPON = "coupon"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatedLine:
    """One charge applied to the usage that it selects.

    Attributes:
        key: stable name: the same charge of the same contract has the same key in every slice
            and every re-rating, so that a correction finds the line that it corrects.
        kind: the charge itself, a shortfall beside it, or an adjustment of both; an adjustment is
            whole minor units, the others are exact and rounded once each.
        charge_key: key of the charge, commitment or coupon in its plan.
        description: what the invoice calls it.
        meter: code of the meter, or None for a fee that counts nothing.
        unit: name of what is counted, in the plural.
        quantity: units of the meter in this slice.
        exact: major units, not rounded.
        amount: what the line adds to the invoice, in minor units: the period's exact amount
            rounded with the slice, less the same without it.
        explanation: every step, in order.
        by_model: share of each model, as weights of any scale with a positive sum; revenue is
            split over models in proportion to them.
    """

    key: str
    kind: LineKind = LineKind.CHARGE
    charge_key: str
    description: str
    meter: str | None
    unit: str
    quantity: Decimal
    exact: Decimal
    amount: Money
    explanation: tuple[ExplanationStep, ...]
    by_model: tuple[tuple[str | None, Decimal], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnratedQuantity:
    """Usage that no charge prices: it is shown and blocks the invoice (R5).

    Attributes:
        meter, model: as metered.
        quantity: units of the meter in this slice, above zero.
        dimensions: values of the dimensions that prices of the meter ask for, by name.
    """

    meter: str
    model: str | None
    quantity: Decimal
    dimensions: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What a plan makes of a slice of usage.

    Attributes:
        currency: of every line.
        lines: in the order of the plan's charges.
        unrated: usage without a price, by meter, model and dimensions.
    """

    currency: Currency
    lines: tuple[RatedLine, ...]
    unrated: tuple[UnratedQuantity, ...]
