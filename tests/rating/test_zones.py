"""Days of 23, 24 and 25 hours, odd offsets, leap years: the parts of a period are the whole."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.price_plan import ProrationDays
from billing.errors import InvalidInput
from billing.metering.aggregation import Point
from billing.money import EXACT
from billing.period import BUCKET, Period, local_days, local_midnight, month, zone
from billing.rating.levels import level_changes
from billing.rating.proration import day_share, days_between
from billing.rating.quantity import LevelChange
from tests.strategies import PATIENT

ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
]
months = st.builds(
    lambda name, year, number, anchor: (
        month(year, number, zone(name), anchor_day=anchor),
        zone(name),
    ),
    st.sampled_from(ZONES),
    st.sampled_from([2011, 2024, 2026, 2028]),
    st.integers(1, 12),
    st.sampled_from([1, 15, 29, 30, 31]),
)
telescoping = st.sampled_from([ProrationDays.HALF_OPEN, ProrationDays.FIXED_30])


@PATIENT
@given(months, telescoping, st.data())
def test_parts_of_any_split_of_a_month_are_the_whole(of, days, data):
    """Wherever contracts follow each other, on the grid, no day is lost and none counts twice."""
    period, in_zone = of
    steps = (period.end - period.start) // BUCKET
    cuts = sorted(data.draw(st.sets(st.integers(1, steps - 1), max_size=4)))
    bounds = [period.start, *(period.start + cut * BUCKET for cut in cuts), period.end]
    amount = Decimal("99.99")

    shares = [
        day_share(Period(start=start, end=end), period, in_zone, days=days)
        for start, end in pairwise(bounds)
    ]

    assert sum(share.days for share in shares) == shares[0].of_days
    assert sum((share.of(amount) for share in shares), Decimal(0)) == amount
    assert all(share.days >= 0 for share in shares)


@PATIENT
@given(months)
def test_a_whole_month_is_whole_however_days_are_counted(of):
    period, in_zone = of
    for days in ProrationDays:
        assert day_share(period, period, in_zone, days=days).is_whole


@PATIENT
@given(months)
def test_days_are_counted_by_the_calendar_and_not_by_24_hours(of):
    period, in_zone = of
    begun = [day for day in local_days(period, in_zone) if local_midnight(day, in_zone) in period]

    assert day_share(period, period, in_zone).of_days == len(begun)
    if str(in_zone) != "Pacific/Apia":
        assert days_between(period.start, period.end, in_zone) == len(begun)


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, tzinfo=UTC), "23"),
        ("Europe/Berlin", datetime(2026, 10, 25, tzinfo=UTC), "25"),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC), "24.5"),
        ("Australia/Lord_Howe", datetime(2026, 10, 4, tzinfo=UTC), "23.5"),
        ("Asia/Kathmandu", datetime(2026, 10, 4, tzinfo=UTC), "24"),
    ],
)
def test_a_long_or_short_day_is_one_day(name, day, hours):
    in_zone = zone(name)
    start, end = (
        local_midnight((day + timedelta(days=number)).date(), in_zone) for number in (0, 1)
    )
    period = month(day.year, day.month, in_zone)

    assert (end - start) == timedelta(minutes=int(Decimal(hours) * 60))
    assert day_share(Period(start=start, end=end), period, in_zone).days == 1


@PATIENT
@given(months, st.lists(st.tuples(st.integers(0, 2600), st.integers(0, 50)), max_size=6))
def test_a_level_weighs_what_its_days_hold(of, moves):
    """Seats set during a day count from the next: the sum over days of the level at midnight."""
    period, in_zone = of
    points = sorted(
        Point(
            occurred_at=period.start + quarter * BUCKET,
            epoch=1,
            event_id=UUID(int=number),
            value=Decimal(level),
        )
        for number, (quarter, level) in enumerate(moves)
    )
    changes = list(level_changes(points, initial=Decimal(7), period=period, zone=in_zone))

    midnights = [
        midnight
        for day in local_days(period, in_zone)
        if (midnight := local_midnight(day, in_zone)) in period
    ]
    held = sum(
        next((p.value for p in reversed(points) if p.occurred_at <= midnight), Decimal(7))
        for midnight in midnights
    )
    weight = Decimal(0)
    for change in changes:
        weight = EXACT.add(weight, change.prorated)
    assert abs(weight * len(midnights) - held) < Decimal("0.000000001")


def test_on_inclusive_days_a_seat_pays_for_its_first_and_its_last_day():
    period, in_zone = month(2026, 11, zone("UTC")), zone("UTC")
    noon = timedelta(hours=12)
    points = [
        Point(occurred_at=period.start + noon, epoch=1, event_id=UUID(int=1), value=Decimal(30)),
        Point(
            occurred_at=period.start + timedelta(days=9) + noon,
            epoch=1,
            event_id=UUID(int=2),
            value=Decimal(0),
        ),
    ]
    weights = {
        days: sum(
            change.prorated
            for change in level_changes(
                points, initial=Decimal(0), period=period, zone=in_zone, days=days
            )
        )
        for days in (ProrationDays.INCLUSIVE, ProrationDays.HALF_OPEN)
    }

    assert weights == {ProrationDays.INCLUSIVE: 10, ProrationDays.HALF_OPEN: 9}


@pytest.mark.parametrize(("units", "prorated"), [("1", "-1"), ("0", "1"), ("-1", "0.5")])
def test_prorated_units_have_the_sign_of_the_units(units, prorated):
    with pytest.raises(InvalidInput):
        LevelChange(
            at=datetime(2026, 11, 1, tzinfo=UTC),
            units=Decimal(units),
            prorated=Decimal(prorated),
        )
