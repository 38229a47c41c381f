"""Steps over several charges: commitments and coupons of a plan, in minor units.

Decides: what a commitment over several charges bills when they fall short of it or exceed it, and
what a coupon takes off. Both compare with amounts that are rounded already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from billing.catalog.adjustment import Coupon, SpendCommitment
from billing.catalog.price_plan import PricePlan
from billing.money import Currency, Money, from_minor, to_minor
from billing.rating.line import ExplanationStep, LineKind, RatedLine
from billing.rating.proration import DayShare
from billing.rating.step import figure

_NOBODY = ((None, Decimal(1)),)


def rate_together(
    plan: PricePlan, lines: Sequence[RatedLine], *, share: DayShare, closes: bool
) -> Iterator[RatedLine]:
    """Lines of the plan's commitments, then of its coupons, each on all lines before it.

    Args:
        lines: of the plan's charges, adjustments included.
        share: the days of the billing period that the contract covers.
        closes: whether the period is over, so that what is missing is known.
    """
    found = list(lines)
    for promised in plan.commitments:
        found.extend(made := list(_commitment(promised, found, plan.currency, share, closes)))
        yield from made
    for coupon in plan.coupons:
        found.extend(made := list(_coupon(coupon, found, plan.currency)))
        yield from made


def less_before(now: Sequence[RatedLine], then: Sequence[RatedLine]) -> Iterator[RatedLine]:
    """What lines of a period come to, less what they came to at the beginning of a slice.

    Args:
        now, then: of `rate_together`; a key occurs once in each.
    """
    earlier = {line.key: line for line in then}
    for line in now:
        before = earlier.pop(line.key, None)
        if before is None:
            yield line
        elif before.amount != line.amount:
            text = f"less {before.amount} up to the slice"
            yield _changed(line, line.amount - before.amount, text, -before.amount.major())
    for line in earlier.values():
        yield _changed(line, -line.amount, "no longer due", None)


def _changed(line: RatedLine, amount: Money, text: str, less: Decimal | None) -> RatedLine:
    major = amount.major()
    kept = () if less is None else line.explanation
    note = ExplanationStep(step="slice", text=text, amount=major if less is None else less)
    return replace(line, exact=major, amount=amount, explanation=(*kept, note))


def _commitment(
    promised: SpendCommitment,
    lines: Sequence[RatedLine],
    currency: Currency,
    share: DayShare,
    closes: bool,
) -> Iterator[RatedLine]:
    reached = _sum(lines, promised.charges)
    due = share.of(promised.amount)
    missing = to_minor(due, currency) - reached
    text = f"{figure(due)} committed, {_money(reached, currency)} reached"
    # Nothing promised is no bound: usage that was taken back may leave less than nothing.
    if missing > 0 and closes and promised.amount:
        yield _line(
            promised,
            LineKind.TRUE_UP,
            missing,
            currency,
            f"{text}: {_money(missing, currency)} missing",
        )
    elif missing < 0 and promised.overage_factor != 1:
        factor = promised.overage_factor - 1
        more = to_minor(factor * from_minor(-missing, currency), currency)
        if more:
            yield _line(
                promised,
                LineKind.OVERAGE,
                more,
                currency,
                f"{text}: {_money(-missing, currency)} beyond, {figure(factor)} more",
            )


def _coupon(coupon: Coupon, lines: Sequence[RatedLine], currency: Currency) -> Iterator[RatedLine]:
    total = max(_sum(lines, coupon.charges), 0)
    if coupon.percent_off:
        part = coupon.percent_off.scaleb(-2)
        off = to_minor(part * from_minor(total, currency), currency)
        text = f"{figure(coupon.percent_off)} % off {_money(total, currency)}"
    else:
        off = min(to_minor(coupon.amount_off, currency), total)
        text = f"{figure(coupon.amount_off)} off {_money(total, currency)}"
    if off:
        yield _line(coupon, LineKind.COUPON, -off, currency, text)


def _sum(lines: Sequence[RatedLine], charges: frozenset[str] | None) -> int:
    return sum(line.amount.minor for line in lines if charges is None or line.charge_key in charges)


def _line(
    of: SpendCommitment | Coupon, kind: LineKind, minor: int, currency: Currency, text: str
) -> RatedLine:
    amount = Money(minor=minor, currency=currency)
    return RatedLine(
        key=of.key if kind is not LineKind.OVERAGE else f"{of.key}:{kind.value}",
        kind=kind,
        charge_key=of.key,
        description=of.description,
        meter=None,
        unit="billing periods",
        quantity=Decimal(1),
        exact=amount.major(),
        amount=amount,
        explanation=(ExplanationStep(step=kind.value, text=text, amount=amount.major()),),
        by_model=_NOBODY,
    )


def _money(minor: int, currency: Currency) -> str:
    return str(Money(minor=minor, currency=currency))
