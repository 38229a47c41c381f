"""Proration by local days: fees are cut, and the parts add up to the whole."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.catalog.price_plan import PricePlan
from billing.money import CURRENCIES, EXACT
from billing.period import Period, month, zone
from billing.rating.pipeline import Slice, rate
from billing.rating.proration import WHOLE, DayShare, day_share
from tests.charges import flat_fee

PLAN = PricePlan(
    slug="fee",
    name="Fee",
    currency=CURRENCIES["USD"],
    charges=(flat_fee(key="fee", description="Fee", amount=Decimal(100)),),
)


@pytest.mark.parametrize(
    ("start", "days"),
    [
        (datetime(2026, 11, 1, tzinfo=UTC), 30),
        (datetime(2026, 11, 16, tzinfo=UTC), 15),
        (datetime(2026, 11, 16, 0, 15, tzinfo=UTC), 14),
        (datetime(2026, 11, 30, tzinfo=UTC), 1),
        (datetime(2026, 11, 30, 12, tzinfo=UTC), 0),
    ],
)
def test_a_day_counts_if_its_midnight_is_covered(start: datetime, days: int) -> None:
    november = month(2026, 11, zone("UTC"))
    share = day_share(Period(start=start, end=november.end), november, zone("UTC"))
    assert (share.days, share.of_days) == (days, 30)


def test_days_are_local_over_a_change_of_the_clock() -> None:
    berlin = zone("Europe/Berlin")
    october = month(2026, 10, berlin)
    middle = month(2026, 10, berlin, anchor_day=26).start
    share = day_share(Period(start=october.start, end=middle), october, berlin)
    assert (share.days, share.of_days) == (25, 31)


def test_a_fee_for_ten_of_thirty_days_is_explained() -> None:
    rating = rate(PLAN, (), of=Slice(share=DayShare(days_before=20, days=10, of_days=30)))
    (line,) = rating.lines
    assert line.exact == Decimal("33.333333333333")
    assert line.amount.minor == 3333
    assert "10 of 30 days of 100 = 33.333333333333 USD" in line.explanation[0].text


def test_a_whole_period_is_not_cut() -> None:
    assert rate(PLAN, ()) == rate(PLAN, (), of=Slice(share=WHOLE))
    assert rate(PLAN, ()).lines[0].exact == 100


@settings(max_examples=100, deadline=None)
@given(
    fee=st.decimals(min_value=0, max_value=10**9, places=18),
    of_days=st.integers(28, 31),
    cut=st.data(),
)
def test_the_parts_of_any_split_add_up(fee: Decimal, of_days: int, cut: st.DataObject) -> None:
    first = cut.draw(st.integers(0, of_days))
    second = cut.draw(st.integers(first, of_days))
    bounds = (0, first, second, of_days)
    parts = [
        DayShare(days_before=start, days=end - start, of_days=of_days).of(fee)
        for start, end in pairwise(bounds)
    ]
    total = Decimal(0)
    for part in parts:
        total = EXACT.add(total, part)
    # One part may be the whole period, which is exact; the others are at 12 decimals.
    assert abs(EXACT.subtract(total, fee)) <= Decimal("0.0000000000005")
    assert all(part >= 0 for part in parts)
