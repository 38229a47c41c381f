"""What a running billing period will come to: quantities projected by day, then rated like others.

Decides: what the days that are left are expected to hold, and between which bounds. With two weeks
of complete local days or more, a day is expected to be like those of its weekday; with fewer, like
all of them; without any, time goes on as it began. Lower and upper bound are the means of the
calmer and of the busier half of those days, the middle one in both. Decides no prices: what is
projected goes through the pipeline, so that tiers, minimums and commitments count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from billing.money import QUANTITY_DECIMALS_MAX, decimals_of, round_half_up
from billing.rating.quantity import MeteredQuantity

HISTORY_DAYS = 56
"""Complete days that are looked at, at most: eight of each weekday."""

PROFILE_DAYS = 14
"""Complete days from which on weekdays are told apart."""


class Method(StrEnum):
    """How the days that are left were estimated."""

    WEEKDAYS = "weekdays"
    RUN_RATE = "run_rate"
    ELAPSED = "elapsed"


class Bound(StrEnum):
    """Which of three figures."""

    LOW = "low"
    LIKELY = "likely"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """Days behind and ahead of the instant of a forecast.

    Attributes:
        complete: local days that are over, ascending and without gaps, the newest `HISTORY_DAYS`
            since the first usage at most.
        ahead: local days that are left, with the part of each that is; today's is below 1.
        elapsed: part of the whole time that is over, above 0.
    """

    complete: tuple[date, ...]
    ahead: tuple[tuple[date, Fraction], ...]
    elapsed: Fraction

    @property
    def method(self) -> Method:
        """How the days ahead are estimated."""
        if len(self.complete) >= PROFILE_DAYS:
            return Method.WEEKDAYS
        return Method.RUN_RATE if self.complete else Method.ELAPSED


def growth(
    used: Decimal, by_day: Mapping[date, Decimal], horizon: Horizon, bound: Bound
) -> Fraction:
    """How many times what was used so far the whole time is expected to come to; at least 1.

    Args:
        used: since the time began, above zero.
        by_day: of complete days; a day that is missing has none.
    """
    if horizon.method is Method.ELAPSED:
        return Fraction(1) / horizon.elapsed
    rest = Fraction(0)
    for day, part in horizon.ahead:
        like = _like(day, horizon)
        rest += part * _mean([Fraction(by_day.get(each, Decimal(0))) for each in like], bound)
    return 1 + Fraction(max(rest, Fraction(0))) / Fraction(used)


def stretched(quantity: MeteredQuantity, factor: Fraction) -> MeteredQuantity:
    """A quantity that many times, with as many decimals as it had and never fewer of it."""
    decimals = min(decimals_of(quantity.quantity), QUANTITY_DECIMALS_MAX)
    grown = round_half_up(Fraction(quantity.quantity) * factor, decimals)
    return replace(quantity, quantity=grown)


def _like(day: date, horizon: Horizon) -> Sequence[date]:
    if horizon.method is not Method.WEEKDAYS:
        return horizon.complete
    return [each for each in horizon.complete if each.weekday() == day.weekday()]


def _mean(values: Sequence[Fraction], bound: Bound) -> Fraction:
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    if bound is Bound.LOW:
        ordered = ordered[:half]
    elif bound is Bound.HIGH:
        ordered = ordered[-half:]
    return Fraction(sum(ordered, Fraction(0))) / len(ordered)
