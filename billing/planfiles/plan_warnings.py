"""What is allowed in a plan and yet probably not meant.

Decides: which gaps are worth a word. Usage that falls into one is refused before dispatch or waits
in the unrated queue, so nothing is lost; but somebody notices late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from billing.admission.terms import Unpriced
from billing.catalog.price_plan import Coverage, PricePlan, prices_model
from billing.catalog.window import Window
from billing.metering.token_class import TokenClass
from billing.planfiles.window_file import unpriced_hours
from billing.rating.meter_fit import DeclaredMeter
from billing.rating.unpriced_values import unpriced_inputs, unpriced_values


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWarning:
    """A gap in a plan.

    Attributes:
        about: the meter or model.
    """

    about: str
    message: str
    remedy: str


def plan_warnings(
    plan: PricePlan, meters: Mapping[str, DeclaredMeter] | None = None
) -> tuple[PlanWarning, ...]:
    """The gaps of a plan.

    Args:
        meters: declared ones by code.

    Returns:
        What other contracts have to price, and, unless the plan says that what has no price is
        free, hours and cached input without a price.
    """
    left = tuple(_left_to_others(plan, meters or {}))
    if plan.policies.admission.unpriced is Unpriced.FREE:
        return left
    return (*left, *_hours(plan), *_cached(plan))


def _left_to_others(plan: PricePlan, meters: Mapping[str, DeclaredMeter]) -> Iterator[PlanWarning]:
    if plan.policies.coverage is Coverage.TOGETHER:
        for gap in (*unpriced_values(plan.charges, meters), *unpriced_inputs(plan.charges)):
            yield PlanWarning(
                about=gap.about,
                message=gap.message,
                remedy="price it in another contract of the same tenant, bound first",
            )


def _hours(plan: PricePlan) -> Iterator[PlanWarning]:
    by_meter: dict[str, list[Window | None]] = {}
    for charge in plan.charges:
        if charge.selector is not None:
            by_meter.setdefault(charge.selector.meter, []).append(charge.selector.window)
    for meter, windows in by_meter.items():
        bounded = [window for window in windows if window is not None]
        quarters = unpriced_hours(bounded)
        if quarters and len(bounded) == len(windows):
            hours, rest = divmod(quarters, 4)
            yield PlanWarning(
                about=meter,
                message=f"{hours} h {rest * 15:02} min of a week have no price",
                remedy="add a charge during a window that is the rest_of the others",
            )


def _cached(plan: PricePlan) -> Iterator[PlanWarning]:
    models = {
        model
        for charge in plan.charges
        if charge.selector is not None and charge.selector.meter == TokenClass.OUTPUT.meter
        for model in charge.selector.models or ()
    }
    for model in sorted(models):
        if TokenClass.CACHED_INPUT not in prices_model(plan, model):
            yield PlanWarning(
                about=model,
                message="cached input has no price, and most engines cache prompts",
                remedy="price cached_input, at the price of input if it is to cost the same",
            )
