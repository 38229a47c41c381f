"""Steps on rounded amounts: maximum, minimum and commitment of a charge.

Decides: what each adds to or takes off what a charge was rounded to. They compare with rounded
amounts and are whole minor units themselves, so that an invoice never shows a cent missing from
a bound. Every figure is cumulative from the start of the billing period.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

from billing.catalog.price import Span
from billing.money import Money, from_minor, to_minor
from billing.rating.line import LineKind
from billing.rating.step import Terms, figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """What a bound does to an amount.

    Attributes:
        minor: minor units that it adds; below zero for a maximum.
        text: the arithmetic.
    """

    kind: LineKind
    minor: int
    text: str


WholeStep: TypeAlias = Callable[[Terms, int], Adjustment | None]


def maximum(terms: Terms, minor: int) -> Adjustment | None:
    """Take off what exceeds the most that the charge may cost."""
    most = terms.charge.adjustments.maximum
    if most is None or (over := minor - to_minor(most, terms.currency)) <= 0:
        return None
    return Adjustment(
        kind=LineKind.MAXIMUM,
        minor=-over,
        text=f"{_money(terms, minor)}, at most {figure(most)}: {_money(terms, -over)}",
    )


def minimum(terms: Terms, minor: int) -> Adjustment | None:
    """Add what is missing from the least that the charge costs, by the days of the contract."""
    least = terms.charge.adjustments.minimum
    return _missing(terms, minor, least, kind=LineKind.MINIMUM, word="at least")


def true_up(terms: Terms, minor: int) -> Adjustment | None:
    """Add what is missing from the amount committed, by the days of the contract."""
    promised = terms.charge.adjustments.commitment
    if promised is None or promised.window is not Span.PERIOD or not promised.true_up:
        return None
    return _missing(terms, minor, promised.amount, kind=LineKind.TRUE_UP, word="committed")


def overage(terms: Terms, minor: int) -> Adjustment | None:
    """Price what exceeds the amount committed at its factor."""
    promised = terms.charge.adjustments.commitment
    if promised is None or promised.window is not Span.PERIOD or promised.overage_factor == 1:
        return None
    beyond = minor - to_minor(terms.share.of(promised.amount), terms.currency)
    if beyond <= 0:
        return None
    factor = promised.overage_factor - 1
    more = to_minor(factor * from_minor(beyond, terms.currency), terms.currency)
    return Adjustment(
        kind=LineKind.OVERAGE,
        minor=more,
        text=(
            f"{_money(terms, beyond)} beyond the commitment, {figure(factor)} more:"
            f" {_money(terms, more)}"
        ),
    )


BOUNDS: tuple[WholeStep, ...] = (
    # The maximum first: a minimum above it would be refused when the plan is read.
    maximum,
    # After the maximum: the least is due even where a discount took the amount below it.
    minimum,
    # Last of a charge: a commitment is about all that is paid for it, bounds included.
    true_up,
    overage,
)


def adjustments(terms: Terms, minor: int, *, closes_period: bool) -> Iterator[Adjustment]:
    """What the bounds do to a rounded amount, in order.

    Args:
        closes_period: whether the period is over; what is missing is known only then.
    """
    for bound in BOUNDS:
        if not closes_period and bound in {minimum, true_up}:
            continue
        if (found := bound(terms, minor)) is not None:
            minor += found.minor
            yield found


def _missing(
    terms: Terms, minor: int, amount: Decimal, *, kind: LineKind, word: str
) -> Adjustment | None:
    if amount == 0:
        # No bound: usage that was taken back may leave less than nothing.
        return None
    due = terms.share.of(amount)
    missing = to_minor(due, terms.currency) - minor
    if missing <= 0:
        return None
    days = "" if terms.share.is_whole else f" for {terms.share.days} of {terms.share.of_days} days"
    return Adjustment(
        kind=kind,
        minor=missing,
        text=f"{figure(due)} {word}{days}, {_money(terms, minor)} reached: "
        f"{_money(terms, missing)} missing",
    )


def _money(terms: Terms, minor: int) -> str:
    return str(Money(minor=minor, currency=terms.currency))
