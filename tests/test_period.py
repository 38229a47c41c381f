"""Periods: half-open, tiling, and right on the days when clocks change."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import InvalidInput
from billing.period import (
    BUCKET,
    Period,
    bucket_of,
    local_days,
    local_midnight,
    month,
    month_of,
    parse_instant,
    parse_month,
    require_on_grid,
    require_utc,
    zone,
)
from tests.strategies import PATIENT

ZONES = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # its clocks change by half an hour
    "Pacific/Apia",  # skipped a whole day in 2011
    "America/Sao_Paulo",  # skipped midnight until 2018
    "Africa/Casablanca",  # changes around Ramadan
    "Pacific/Kiritimati",  # +14
]
zones = st.sampled_from(ZONES).map(zone)
instants = st.datetimes(datetime(2001, 1, 1), datetime(2036, 12, 31)).map(  # noqa: DTZ001  # made aware next
    lambda naive: naive.replace(tzinfo=UTC)
)
anchors = st.integers(1, 31)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "zone_name", "hours"),
    [
        (date(2026, 3, 29), "Europe/Paris", 23),
        (date(2026, 10, 25), "Europe/Paris", 25),
        (date(2026, 3, 8), "America/New_York", 23),
        (date(2026, 11, 1), "America/New_York", 25),
        (date(2026, 10, 4), "Australia/Lord_Howe", None),
        (date(2018, 11, 4), "America/Sao_Paulo", 23),
        (date(2026, 7, 1), "Asia/Kathmandu", 24),
    ],
)
def test_local_days_have_the_hours_that_they_have(day, zone_name, hours):
    in_zone = zone(zone_name)
    length = local_midnight(day + timedelta(days=1), in_zone) - local_midnight(day, in_zone)

    assert length == (timedelta(hours=hours) if hours else timedelta(hours=23, minutes=30))


@pytest.mark.parametrize(
    ("day", "zone_name", "starts"),
    [
        (date(2026, 7, 1), "Asia/Kathmandu", "2026-06-30T18:15"),
        (date(2026, 7, 1), "Europe/Paris", "2026-06-30T22:00"),
        (date(2026, 1, 1), "Pacific/Kiritimati", "2025-12-31T10:00"),
        (date(2018, 11, 4), "America/Sao_Paulo", "2018-11-04T03:00"),  # midnight skipped
        (date(2026, 3, 29), "Asia/Beirut", "2026-03-28T22:00"),  # midnight skipped
        (date(2026, 11, 1), "America/Havana", "2026-11-01T04:00"),  # midnight twice
    ],
)
def test_local_midnights(day, zone_name, starts):
    assert local_midnight(day, zone(zone_name)) == at(starts)


@pytest.mark.parametrize(
    ("year", "number", "anchor", "start", "end"),
    [
        (2026, 1, 31, "2026-01-31", "2026-02-28"),
        (2026, 2, 31, "2026-02-28", "2026-03-31"),
        (2028, 2, 30, "2028-02-29", "2028-03-30"),
        (2026, 12, 15, "2026-12-15", "2027-01-15"),
        (2026, 12, 1, "2026-12-01", "2027-01-01"),
    ],
)
def test_anchors_are_clamped_to_short_months_and_come_back(year, number, anchor, start, end):
    period = month(year, number, zone("UTC"), anchor_day=anchor)

    assert period == Period(start=at(f"{start}T00:00"), end=at(f"{end}T00:00"))


@PATIENT
@given(instants, zones, anchors)
def test_months_tile_without_gap_or_overlap(instant, in_zone, anchor):
    held = month_of(instant, in_zone, anchor_day=anchor)
    tick = timedelta(microseconds=1)

    assert instant in held
    assert month_of(held.start, in_zone, anchor_day=anchor) == held
    assert month_of(held.end - tick, in_zone, anchor_day=anchor) == held
    assert month_of(held.end, in_zone, anchor_day=anchor).start == held.end
    assert month_of(held.start - tick, in_zone, anchor_day=anchor).end == held.start


@PATIENT
@given(instants, zones, anchors)
def test_months_and_days_begin_on_the_metering_grid(instant, in_zone, anchor):
    held = month_of(instant, in_zone, anchor_day=anchor)

    assert require_on_grid(held.start, field="start") == held.start
    begins = [local_midnight(day, in_zone) for day in local_days(held, in_zone)]
    assert begins[0] == held.start
    assert begins == sorted(set(begins))
    assert all(bucket_of(midnight) == midnight for midnight in begins)


def test_a_day_that_the_zone_left_out_is_not_counted():
    apia = zone("Pacific/Apia")
    days = list(local_days(parse_month("2011-12", apia), apia))

    assert len(days) == 30
    assert date(2011, 12, 30) not in days


@PATIENT
@given(instants)
def test_an_instant_is_in_exactly_its_bucket(instant):
    bucket = bucket_of(instant)

    assert bucket <= instant < bucket + BUCKET
    assert bucket_of(bucket) == bucket
    assert bucket.minute % 15 == bucket.second == bucket.microsecond == 0


@PATIENT
@given(st.lists(instants, min_size=4, max_size=4, unique=True))
def test_overlap_holds_what_both_hold(drawn):
    one = Period(start=min(drawn[:2]), end=max(drawn[:2]))
    other = Period(start=min(drawn[2:]), end=max(drawn[2:]))
    shared = one.overlap(other)

    for instant in drawn:
        in_shared = shared is not None and instant in shared
        assert in_shared == (instant in one and instant in other)
    assert shared == other.overlap(one)


def test_periods_are_half_open():
    january = parse_month("2026-01", zone("UTC"))
    february = parse_month("2026-02", zone("UTC"))

    assert january.start in january
    assert january.end not in january
    assert january.end in february
    assert january.overlap(february) is None
    assert str(january) == "2026-01-01T00:00Z/2026-02-01T00:00Z"


def test_a_period_that_ends_where_it_starts_is_refused():
    with pytest.raises(InvalidInput):
        Period(start=at("2026-01-01T00:00"), end=at("2026-01-01T00:00"))


@pytest.mark.parametrize(
    "instant",
    [
        datetime(2026, 1, 1),  # noqa: DTZ001  # the point
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_only_aware_utc_is_accepted(instant):
    with pytest.raises(InvalidInput) as refused:
        require_utc(instant, field="occurred_at")

    assert refused.value.field == "occurred_at"


@pytest.mark.parametrize("text", ["2026-01-01T00:01", "2026-01-01T00:00:01"])
def test_off_the_grid_is_refused(text):
    with pytest.raises(InvalidInput):
        require_on_grid(at(text), field="valid_from")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00"),
        ("2026-11-01T05:45:00+05:45", "2026-11-01T00:00"),
        ("2026-10-31T20:00:00.000001-04:00", "2026-11-01T00:00:00.000001"),
    ],
)
def test_instants_are_read_into_utc(text, instant):
    assert parse_instant(text, field="from") == at(instant)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-01", "2026-11-01T00:00:00"])
def test_instants_without_an_offset_are_refused(text):
    with pytest.raises(InvalidInput) as refused:
        parse_instant(text, field="from")

    assert refused.value.field == "from"


@pytest.mark.parametrize("text", ["2026", "2026-13", "2026-00", "26-01", "2026-1", "2026-01-01"])
def test_what_is_no_month_is_refused(text):
    with pytest.raises(InvalidInput) as refused:
        parse_month(text, zone("UTC"))

    assert refused.value.field == "period"


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime", "a\0b"])
def test_unknown_zones_are_refused_never_replaced(name):
    with pytest.raises(InvalidInput) as refused:
        zone(name)

    assert refused.value.field == "zone"


def test_every_known_zone_has_days_on_the_grid_today():
    for name in available_timezones():
        midnight = local_midnight(date(2026, 7, 1), zone(name))
        assert bucket_of(midnight) == midnight, name
