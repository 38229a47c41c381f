"""Forecasts: figures that can be redone by hand, and what always holds of them."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.forecast import (
    PROFILE_DAYS,
    Bound,
    Horizon,
    Method,
    growth,
    stretched,
)
from billing.rating.quantity import MeteredQuantity

SUNDAY = date(2026, 11, 1)


def days(first: date, count: int) -> tuple[date, ...]:
    return tuple(first + timedelta(days=n) for n in range(count))


def ahead(first: date, count: int) -> tuple[tuple[date, Fraction], ...]:
    return tuple((day, Fraction(1)) for day in days(first, count))


def test_the_first_day_goes_on_as_it_began() -> None:
    horizon = Horizon(complete=(), ahead=ahead(SUNDAY, 30), elapsed=Fraction(1, 120))
    assert horizon.method is Method.ELAPSED
    for bound in Bound:
        assert growth(Decimal(7), {}, horizon, bound) == 120


@pytest.mark.parametrize(
    ("bound", "a_day"),
    [(Bound.LOW, Fraction(2)), (Bound.LIKELY, Fraction(3)), (Bound.HIGH, Fraction(4))],
)
def test_some_days_give_a_run_rate(bound: Bound, a_day: Fraction) -> None:
    complete = days(SUNDAY, 5)
    by_day = dict(zip(complete, map(Decimal, (3, 1, 5, 2, 4)), strict=True))
    left = ((SUNDAY + timedelta(days=5), Fraction(1, 2)), *ahead(SUNDAY + timedelta(days=6), 2))
    horizon = Horizon(complete=complete, ahead=left, elapsed=Fraction(11, 16))
    assert horizon.method is Method.RUN_RATE
    # 15 of complete days, 1 of today so far, and two days and a half are left.
    assert growth(Decimal(16), by_day, horizon, bound) == (16 + Fraction(5, 2) * a_day) / 16


def test_two_weeks_tell_weekdays_apart() -> None:
    complete = days(SUNDAY, 14)
    by_day = {day: Decimal(100 if day.weekday() < 5 else 10) for day in complete}
    week = ahead(SUNDAY + timedelta(days=14), 7)
    horizon = Horizon(complete=complete, ahead=week, elapsed=Fraction(2, 3))
    assert horizon.method is Method.WEEKDAYS
    used = sum(by_day.values(), Decimal(0))
    for bound in Bound:
        assert growth(used, by_day, horizon, bound) == Fraction(3, 2)


AMOUNTS = st.lists(st.integers(0, 10**18), min_size=1, max_size=40)


@given(amounts=AMOUNTS, left=st.integers(0, 40), today=st.integers(1, 10**18))
def test_the_range_holds_the_likely_figure_and_nothing_shrinks(
    amounts: list[int], left: int, today: int
) -> None:
    complete = days(SUNDAY, len(amounts))
    by_day = dict(zip(complete, map(Decimal, amounts), strict=True))
    horizon = Horizon(
        complete=complete,
        ahead=ahead(SUNDAY + timedelta(days=len(amounts)), left),
        elapsed=Fraction(1, 2),
    )
    assert (horizon.method is Method.WEEKDAYS) == (len(amounts) >= PROFILE_DAYS)
    used = Decimal(sum(amounts) + today)
    low, likely, high = (growth(used, by_day, horizon, bound) for bound in Bound)
    assert 1 <= low <= likely <= high


@given(units=st.integers(0, 10**12), decimals=st.integers(0, 6), times=st.fractions(1, 1000))
def test_a_stretched_quantity_has_no_new_digits(units: int, decimals: int, times: Fraction) -> None:
    quantity = Decimal(units).scaleb(-decimals)
    grown = stretched(MeteredQuantity(meter="tokens.input", quantity=quantity), times).quantity
    exact = Fraction(quantity) * times
    assert abs(Fraction(grown) - exact) <= Fraction(1, 2)
    assert grown >= quantity
    exponent = grown.as_tuple().exponent
    assert isinstance(exponent, int)
    assert -exponent <= decimals
