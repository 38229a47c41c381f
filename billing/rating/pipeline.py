"""The rating pipeline: which steps there are, in which order, and why.

Decides: the order of steps, which charge rates which quantity, what is left unrated. Decides no
arithmetic: that is in the steps. Pure: the same plan and quantities give the same lines, which is
what makes a dry run equal the real one and a re-rating a no-op.

The order, from quantity to invoice:

1. `weigh.GROUP_STEPS`, exact, for each part of the usage that counts by itself: unit conversion,
   included usage, price, commitment per window.
2. `weigh.CHARGE_STEPS`, exact, for the charge: percentage discount.
3. Rounding, once per line: nothing after it is computed from an exact amount. What windows were
   promised and left unused is a line beside the charge's, since it is earned as something else.
4. `whole.BOUNDS`, in minor units, for the charge and its shortfall: maximum, minimum, commitment,
   overage.
5. `rate_together`, in minor units, for the plan: commitments over several charges, coupons.

Promotional credits, tax and paid credits follow on the invoice, since they are not of one plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, Inexact, localcontext
from zoneinfo import ZoneInfo

from billing.catalog.price_plan import PricePlan
from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import EXACT, QUANTITY_MAX, Money, to_minor
from billing.period import Period
from billing.rating.compiled import CompiledCharge, CompiledPlan, PlainCharge, compiled
from billing.rating.groups import groups_of
from billing.rating.line import ExplanationStep, LineKind, RatedLine, Rating, UnratedQuantity
from billing.rating.proration import WHOLE, DayShare
from billing.rating.quantity import MeteredQuantity
from billing.rating.rounding import round_line
from billing.rating.step import Terms, Weighing
from billing.rating.together import less_before, rate_together
from billing.rating.weigh import weigh
from billing.rating.whole import Adjustment, adjustments

_ZERO, _ONE = Decimal(0), Decimal(1)
_UTC = ZoneInfo("UTC")
_NO_UNITS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Which part of a billing period is rated, and of which contract's days.

    Attributes:
        opens_period: whether the slice begins the billing period. That slice carries what is due
            without usage; whole periods are rated as one opening slice.
        closes_period: whether the period is over, so that what is missing from a minimum or a
            commitment is known.
        share: the days of the billing period that the contract covers; fees, minimums and
            commitments are prorated by it. Allowances and tiers are not: they are about usage,
            which stops with the contract.
        covered: the instants that the contract covers; None where no calendar is known.
        zone: whose clock bounds days, hours and windows.
    """

    opens_period: bool = True
    closes_period: bool = True
    share: DayShare = WHOLE
    covered: Period | None = None
    zone: ZoneInfo = _UTC


WHOLE_PERIOD = Slice()


def rate(
    plan: PricePlan,
    quantities: Iterable[MeteredQuantity],
    *,
    of: Slice = WHOLE_PERIOD,
    explained: bool = True,
    units: Mapping[str, str] = _NO_UNITS,
) -> Rating:
    """Rate a slice of one contract's billing period.

    Args:
        plan: the terms.
        quantities: what was used, in any order; the same place may occur repeatedly and is summed.
        of: which slice it is.
        explained: whether lines carry their arithmetic; without it they are the same lines, and
            cost a fraction of the time.
        units: what a unit of a declared meter is called, by code of the meter.

    Raises:
        InvalidInput: usage before a slice that opens the period, or a charge that asks for a time
            or calendar which was not handed in.
        AmountOutOfRange: a quantity or an amount beyond what can be billed exactly.
        OverlappingCharges: two charges select one quantity (D16).
    """
    ready = compiled(plan).in_units(units)
    with localcontext(EXACT):
        selected, unrated = _select(ready, _in_place(quantities, of), of)
        try:
            lines = tuple(
                line
                for charge in ready.charges
                for line in _lines(plan, charge, selected.get(charge.charge.key, ()), of, explained)
            )
            if plan.commitments or plan.coupons:
                lines = (*lines, *_together(ready, selected, lines, of))
        except Inexact:
            raise AmountOutOfRange(
                "an amount has more digits than can be kept exactly",
                remedy="check quantities and prices",
            ) from None
    if not explained:
        lines = tuple(replace(line, explanation=()) if line.explanation else line for line in lines)
    return Rating(currency=plan.currency, lines=lines, unrated=unrated)


def _together(
    ready: CompiledPlan,
    selected: Mapping[str, Sequence[MeteredQuantity]],
    lines: Sequence[RatedLine],
    of: Slice,
) -> Iterator[RatedLine]:
    """Lines of commitments and coupons; of a later slice, what it changes in the period's."""
    if of.opens_period:
        yield from rate_together(ready.plan, lines, share=of.share, closes=of.closes_period)
        return
    periods: list[list[RatedLine]] = []
    for through, closes in ((True, of.closes_period), (False, False)):
        whole = replace(of, opens_period=True, closes_period=closes)
        bent = [
            line
            for charge in ready.charges
            for line in _lines(
                ready.plan,
                charge,
                [used.as_one(through=through) for used in selected.get(charge.charge.key, ())],
                whole,
                False,
            )
        ]
        periods.append(list(rate_together(ready.plan, bent, share=of.share, closes=closes)))
    yield from less_before(*periods)


def _in_place(quantities: Iterable[MeteredQuantity], of: Slice) -> list[MeteredQuantity]:
    """The quantities in an order that does not depend on the caller's (R6)."""
    found = list(quantities)
    if of.opens_period and any(map(_is_later, found)):
        raise InvalidInput(
            "there is usage before the slice that opens the period",
            field="before",
            remedy="rate later slices with opens_period=False",
        )
    return sorted(found, key=_order)


def _is_later(used: MeteredQuantity) -> bool:
    return bool(used.before or used.transactions_before or used.changes_before)


def _order(used: MeteredQuantity) -> tuple[str, bool, str, tuple[tuple[str, str], ...], str]:
    at = "" if used.at is None else used.at.isoformat()
    return used.meter, used.model is not None, used.model or "", used.dimensions, at


def _select(
    ready: CompiledPlan, usage: Sequence[MeteredQuantity], of: Slice
) -> tuple[dict[str, list[MeteredQuantity]], tuple[UnratedQuantity, ...]]:
    """Give every quantity to the one charge that prices it, and list those without one."""
    selected: dict[str, list[MeteredQuantity]] = {}
    unrated: dict[tuple[str, str | None, tuple[tuple[str, str], ...]], Decimal] = {}
    for used in usage:
        charge = ready.charge_of(used, of.zone)
        if charge is not None:
            selected.setdefault(charge.key, []).append(used)
        elif used.quantity:
            place = (used.meter, used.model, used.dimensions)
            unrated[place] = unrated.get(place, _ZERO) + used.quantity
    return selected, tuple(
        UnratedQuantity(meter=meter, model=model, quantity=quantity, dimensions=dimensions)
        for (meter, model, dimensions), quantity in unrated.items()
        if quantity > 0
    )


def _lines(
    plan: PricePlan,
    ready: CompiledCharge,
    usage: Sequence[MeteredQuantity],
    of: Slice,
    explained: bool,
) -> Iterable[RatedLine]:
    """The lines of one charge; plainly where nobody reads the arithmetic."""
    if not explained and ready.plain is not None and of.opens_period:
        quantity = _ZERO
        for used in usage:
            quantity += used.quantity
        # What is below zero goes by the plan's policy, which is a matter of steps.
        if quantity >= 0:
            return _plain_line(ready, ready.plain, usage, quantity, of)
    return _rate_charge(plan, ready, usage, of)


def _plain_line(
    ready: CompiledCharge,
    plain: PlainCharge,
    usage: Sequence[MeteredQuantity],
    quantity: Decimal,
    of: Slice,
) -> tuple[RatedLine, ...]:
    """What `_rate_charge` yields of a plain charge, without the explanation."""
    charge = ready.charge
    if quantity > QUANTITY_MAX:
        raise AmountOutOfRange(
            "usage of one charge is out of range",
            field=charge.key,
            remedy="check the reported quantities",
        )
    exact = plain.costs(quantity, of.share)
    if not (quantity or exact):
        return ()
    line = RatedLine(
        key=charge.key,
        charge_key=charge.key,
        description=charge.description,
        meter=ready.meter,
        unit=ready.unit,
        quantity=_ONE if ready.meter is None else quantity,
        exact=exact,
        amount=Money(minor=to_minor(exact, ready.currency), currency=ready.currency),
        explanation=(),
        by_model=_shares(usage),
    )
    return (line,)


def _rate_charge(
    plan: PricePlan, ready: CompiledCharge, usage: Sequence[MeteredQuantity], of: Slice
) -> Iterator[RatedLine]:
    """The lines of one charge; none where nothing was used and nothing is due."""
    charge = ready.charge
    terms = Terms(
        charge=charge,
        policies=plan.policies,
        unit=ready.unit,
        currency=plan.currency,
        share=of.share,
        covered=of.covered,
        zone=of.zone,
    )
    groups = groups_of(terms, usage)
    before_quantity = sum((group.before for group in groups), _ZERO)
    quantity = sum((group.quantity for group in groups), _ZERO)
    if (before_quantity + quantity).copy_abs() > QUANTITY_MAX:
        raise AmountOutOfRange(
            "usage of one charge is out of range",
            field=charge.key,
            remedy="check the reported quantities",
        )
    through = weigh(terms, groups, through=True)
    before = None if of.opens_period else weigh(terms, groups, through=False)
    by_model = _shares(usage)
    exact = through.exact if before is None else through.exact - before.exact
    if quantity or exact:
        amount, rounding = round_line(through, before, plan.currency)
        notes = through.explanation
        if before is not None and before.exact:
            notes = (*notes, _less(before))
        yield RatedLine(
            key=charge.key,
            charge_key=charge.key,
            description=charge.description,
            meter=ready.meter,
            unit=ready.unit,
            quantity=quantity if charge.selector else _ONE,
            exact=exact,
            amount=amount,
            explanation=(*notes, rounding),
            by_model=by_model,
        )
    if of.closes_period:
        yield from _shortfall(terms, through.unused, by_model)
    yield from _adjusted(terms, through, before, by_model, of)


def _shortfall(
    terms: Terms, unused: Weighing, by_model: tuple[tuple[str | None, Decimal], ...]
) -> Iterator[RatedLine]:
    """The line of what windows left unused: of the whole period, since no slice before had one."""
    if unused.exact == 0:
        return
    amount, rounding = round_line(unused, None, terms.currency)
    notes = (*unused.explanation, rounding)
    line = _line_beside(terms, LineKind.SHORTFALL, amount, by_model, notes)
    yield replace(line, exact=unused.exact)


def _less(before: Weighing) -> ExplanationStep:
    return ExplanationStep(
        step="slice", text="less what the period cost up to the slice", amount=-before.exact
    )


def _adjusted(
    terms: Terms,
    through: Weighing,
    before: Weighing | None,
    by_model: tuple[tuple[str | None, Decimal], ...],
    of: Slice,
) -> Iterator[RatedLine]:
    """The bounds' lines: what each does with the slice, less what it did without it."""
    now = list(_bounds(terms, through, closes_period=of.closes_period))
    # An earlier slice did not close the period.
    then = (
        {} if before is None else {a.kind: a for a in _bounds(terms, before, closes_period=False)}
    )
    kinds = {each.kind: each for each in now}
    for kind in sorted(kinds.keys() | then.keys(), key=list(LineKind).index):
        found, earlier = kinds.get(kind), then.get(kind)
        minor = (found.minor if found else 0) - (earlier.minor if earlier else 0)
        if minor == 0:
            continue
        amount = Money(minor=minor, currency=terms.currency)
        text = found.text if found else "no longer due"
        step = ExplanationStep(step=kind.value, text=text, amount=amount.major())
        yield _line_beside(terms, kind, amount, by_model, (step,))


def _line_beside(
    terms: Terms,
    kind: LineKind,
    amount: Money,
    by_model: tuple[tuple[str | None, Decimal], ...],
    explanation: tuple[ExplanationStep, ...],
) -> RatedLine:
    """A line beside the charge's own, of whole minor units."""
    return RatedLine(
        key=f"{terms.charge.key}:{kind.value}",
        kind=kind,
        charge_key=terms.charge.key,
        description=f"{terms.charge.description}: {kind.value.replace('_', ' ')}",
        meter=None,
        unit="billing periods",
        quantity=_ONE,
        exact=amount.major(),
        amount=amount,
        explanation=explanation,
        by_model=by_model,
    )


def _bounds(terms: Terms, weighed: Weighing, *, closes_period: bool) -> Iterator[Adjustment]:
    """What the bounds do to the sum of the lines that were rounded."""
    minor = to_minor(weighed.exact, terms.currency)
    if closes_period:
        minor += to_minor(weighed.unused.exact, terms.currency)
    return adjustments(terms, minor, closes_period=closes_period)


def _shares(usage: Sequence[MeteredQuantity]) -> tuple[tuple[str | None, Decimal], ...]:
    """Each model's quantity. A fee without usage belongs to no model."""
    if len(usage) == 1 and usage[0].quantity > 0:
        return ((usage[0].model, usage[0].quantity),)
    shares: dict[str | None, Decimal] = {}
    for used in usage:
        if used.quantity:
            shares[used.model] = shares.get(used.model, _ZERO) + used.quantity
    if not any(quantity > 0 for quantity in shares.values()):
        # Taken back from every model: a weight is never below zero.
        shares = {model: -quantity for model, quantity in shares.items()}
    weights = tuple((model, quantity) for model, quantity in shares.items() if quantity > 0)
    return weights or ((None, Decimal(1)),)
