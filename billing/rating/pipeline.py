"""The rating pipeline: which steps there are, in which order, and why.

Decides: the order of steps, which charge rates which quantity, what is left unrated. Decides no
arithmetic: that is in the steps. Pure: the same plan and quantities give the same lines, which is
what makes a dry run equal the real one and a re-rating a no-op.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, Inexact, localcontext

from billing.catalog.charge import Charge, selector_of
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector, unit_of
from billing.errors import AmountOutOfRange, InvalidInput, OverlappingCharges
from billing.money import EXACT, QUANTITY_MAX
from billing.rating.included_usage import deduct_included
from billing.rating.line import RatedLine, Rating, UnratedQuantity
from billing.rating.price import apply_price
from billing.rating.proration import WHOLE, DayShare
from billing.rating.quantity import MeteredQuantity
from billing.rating.rounding import round_line
from billing.rating.step import Step, Terms, Weighing
from billing.rating.unit_conversion import convert_units

STEPS: tuple[Step, ...] = (
    # First, so that every later step counts in the units that prices are quoted for.
    convert_units,
    # Before the price: an allowance is free quantity, whatever the price of the rest.
    deduct_included,
    # Last of the steps that exist: it turns quantity into money. Rounding follows, once per line
    # and outside this tuple, because nothing may be computed from a rounded amount.
    apply_price,
)

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    """Usage of one meter and model, summed over what was handed in."""

    model: str | None
    quantity: Decimal
    before: Decimal


def rate(
    plan: PricePlan,
    quantities: Iterable[MeteredQuantity],
    *,
    opens_period: bool = True,
    share: DayShare = WHOLE,
) -> Rating:
    """Rate a slice of one contract's billing period.

    Args:
        plan: the terms.
        quantities: what was used, in any order; the same meter and model may occur repeatedly and
            is summed.
        opens_period: whether the slice begins the billing period. That slice carries the fees
            that are due once per period; whole periods are rated as one opening slice.
        share: the days of the billing period that the contract covers; flat fees are prorated by
            it. Allowances and tiers are not: they are about usage, which stops with the contract.

    Raises:
        InvalidInput: usage before a slice that opens the period.
        AmountOutOfRange: a quantity or an amount beyond what can be billed exactly.
        OverlappingCharges: two charges select one quantity (D16).
    """
    with localcontext(EXACT):
        usage = _sum_usage(quantities, opens_period=opens_period)
        selected, unrated = _select(plan, usage)
        try:
            lines = tuple(
                line
                for charge in plan.charges
                if (
                    line := _rate_charge(
                        plan, charge, selected[charge.key], opens_period=opens_period, share=share
                    )
                )
            )
        except Inexact:
            raise AmountOutOfRange("an amount has more digits than can be kept exactly") from None
    return Rating(currency=plan.currency, lines=lines, unrated=unrated)


def _sum_usage(
    quantities: Iterable[MeteredQuantity], *, opens_period: bool
) -> dict[tuple[str, str | None], _Usage]:
    summed: dict[tuple[str, str | None], _Usage] = {}
    for metered in quantities:
        if opens_period and metered.before > 0:
            raise InvalidInput(
                "there is usage before the slice that opens the period",
                field="before",
                remedy="rate later slices with opens_period=False",
            )
        place = (metered.meter, metered.model)
        so_far = summed.get(place, _Usage(model=metered.model, quantity=_ZERO, before=_ZERO))
        summed[place] = _Usage(
            model=metered.model,
            quantity=so_far.quantity + metered.quantity,
            before=so_far.before + metered.before,
        )
    return summed


def _select(
    plan: PricePlan, usage: dict[tuple[str, str | None], _Usage]
) -> tuple[dict[str, list[_Usage]], tuple[UnratedQuantity, ...]]:
    """Give every quantity to the one charge that prices it, and list those without one."""
    by_meter: dict[str, list[tuple[str, Selector]]] = {}
    for charge in plan.charges:
        if selector := selector_of(charge):
            by_meter.setdefault(selector.meter, []).append((charge.key, selector))
    selected: dict[str, list[_Usage]] = {charge.key: [] for charge in plan.charges}
    unrated: list[UnratedQuantity] = []
    for (meter, model), used in sorted(usage.items(), key=_in_order):
        keys = [key for key, found in by_meter.get(meter, ()) if found.selects(meter, model)]
        if len(keys) > 1:
            raise OverlappingCharges("two charges price the same usage", field=keys[1])
        if keys:
            selected[keys[0]].append(used)
        elif used.quantity > 0:
            unrated.append(UnratedQuantity(meter=meter, model=model, quantity=used.quantity))
    return selected, tuple(unrated)


def _in_order(entry: tuple[tuple[str, str | None], _Usage]) -> tuple[str, bool, str]:
    (meter, model), _ = entry
    return meter, model is not None, model or ""


def _rate_charge(
    plan: PricePlan,
    charge: Charge,
    usage: Sequence[_Usage],
    *,
    opens_period: bool,
    share: DayShare,
) -> RatedLine | None:
    """The line of one charge, or None where nothing was used and nothing is due."""
    selector = selector_of(charge)
    unit = "billing periods" if selector is None else unit_of(selector.meter)
    before = sum((used.before for used in usage), _ZERO)
    quantity = sum((used.quantity for used in usage), _ZERO)
    if before + quantity > QUANTITY_MAX:
        raise AmountOutOfRange("usage of one charge is out of range", field=charge.key)
    terms = Terms(
        charge=charge,
        policies=plan.policies,
        unit=unit,
        currency_code=plan.currency.code,
        opens_period=opens_period,
        share=share,
    )
    weighing = Weighing(before=before, through=before + quantity)
    for step in STEPS:
        weighing = step(terms, weighing)
    if quantity == 0 and weighing.exact == 0:
        return None
    amount, rounding = round_line(weighing, plan.currency)
    return RatedLine(
        key=charge.key,
        charge_key=charge.key,
        description=charge.description,
        meter=selector.meter if selector else None,
        unit=unit,
        quantity=quantity if selector else Decimal(1),
        exact=weighing.exact,
        amount=amount,
        explanation=(*weighing.explanation, rounding),
        by_model=_shares(usage),
    )


def _shares(usage: Sequence[_Usage]) -> tuple[tuple[str | None, Decimal], ...]:
    """Each model's quantity. A fee without usage belongs to no model."""
    shares = tuple((used.model, used.quantity) for used in usage if used.quantity > 0)
    return shares or ((None, Decimal(1)),)
