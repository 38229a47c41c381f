"""The shape of a pipeline step: a weighing in progress in, the same a little further out.

Decides: what steps see and hand on. Every figure is cumulative from the start of the billing
period. A slice costs what the period costs with it, less what it costs without it: that makes
progressive billing, late events and re-rating the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeAlias
from zoneinfo import ZoneInfo

from billing.catalog.charge import Charge
from billing.catalog.price_plan import Policies
from billing.money import Currency
from billing.period import Period
from billing.rating.line import ExplanationStep
from billing.rating.proration import DayShare
from billing.rating.quantity import LevelChange

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is the same for every step of one charge.

    Attributes:
        charge: the charge being rated; its quantities are in units of the meter.
        policies: of the plan.
        unit: what a unit of the meter is called, in the plural.
        currency: of the plan.
        share: the days of the billing period that the contract covers.
        covered: the part of the billing period in which the contract is in force; None where the
            caller knows no calendar, and then no charge may ask for windows of time.
        zone: whose clock bounds days and hours.
    """

    charge: Charge
    policies: Policies
    unit: str
    currency: Currency
    share: DayShare
    covered: Period | None
    zone: ZoneInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """One group of a charge's usage part way through the pipeline.

    Attributes:
        quantity: chargeable quantity from the start of the billing period.
        transactions: single values that make up the quantity, in order, where they are known.
        changes: of a level, by time, whose prorated units make up the quantity.
        exact: amount so far, in major units.
        explanation: the steps that had something to say.
        shortfall: the same of what was committed in windows and not used, whose amounts are no
            part of `exact`: it is earned as something else than usage, on a line of its own.
    """

    quantity: Decimal
    transactions: tuple[Decimal, ...] = ()
    changes: tuple[LevelChange, ...] = ()
    exact: Decimal = _ZERO
    explanation: tuple[ExplanationStep, ...] = ()
    shortfall: tuple[ExplanationStep, ...] = ()

    def explained(self, step: str, text: str) -> Weighing:
        """The same figures with one more line of explanation that adds no amount."""
        note = ExplanationStep(step=step, text=text)
        return replace(self, explanation=(*self.explanation, note))

    def priced(self, step: str, text: str, amount: Decimal) -> Weighing:
        """The same quantities with an amount added and explained."""
        note = ExplanationStep(step=step, text=text, amount=amount)
        return replace(self, exact=self.exact + amount, explanation=(*self.explanation, note))

    def short(self, step: str, text: str, amount: Decimal | None = None) -> Weighing:
        """The same figures with one more line about what was committed and not used."""
        note = ExplanationStep(step=step, text=text, amount=amount)
        return replace(self, shortfall=(*self.shortfall, note))

    @property
    def unused(self) -> Weighing:
        """What was committed and not used, as a sum of its own."""
        amounts = (note.amount for note in self.shortfall if note.amount is not None)
        return Weighing(quantity=_ZERO, exact=sum(amounts, _ZERO), explanation=self.shortfall)


Step: TypeAlias = Callable[[Terms, Weighing], Weighing]


def figure(number: Decimal) -> str:
    """A number as it stands in an explanation: all digits, thousands grouped."""
    text = f"{number:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
