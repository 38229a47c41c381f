"""Golden cases of calendars: which days count, where hours and periods begin."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest

from billing.catalog.price_plan import ProrationDays
from billing.invoicing.credit_note import credit_unused
from billing.money import Money, currency, round_half_up
from billing.period import Period, hour_start, local_midnight, month, parse_instant, zone
from billing.rating.pipeline import Slice
from billing.rating.proration import DayShare, day_share, days_between
from tests.charges import flat_fee
from tests.rating.golden.cases import cases_of, name_of, plan_of, policies_of, rated, rounded_of

DAYS = ("calendar_days_dst", "calendar_days_zone")
HOURS = ("hour_bucket_offset_zone", "dst_ambiguous_hour")
OTHERS = ("proration_coefficient", "proration_window", "proration_change", "anchor_clamping")
CATEGORIES = (*DAYS, *HOURS, *OTHERS)
UTC_ZONE = zone("UTC")
USD = currency("USD")


def midnight(text: str, *, later: int = 0) -> datetime:
    return local_midnight(date.fromisoformat(text) + timedelta(days=later), UTC_ZONE)


def span(text: str) -> Period:
    """Of two dates, both inside."""
    start, end = text.split("/")
    return Period(start=midnight(start), end=midnight(end, later=1))


def share_of(case) -> DayShare:
    """The part of its period that a case is about, under the case's policy."""
    price, given = case["price"], case["input"]
    days = policies_of(case).proration_days
    if "period" in price:
        start, end = given["active"].split("/")
        covered = Period(start=midnight(start), end=midnight(end))
        return day_share(covered, span(price["period"]), UTC_ZONE, days=days)
    if "bcd" in price:
        start = midnight(given["from"])
        period = Period(
            start=month(start.year, start.month, UTC_ZONE, anchor_day=15).start,
            end=midnight(given["to"]),
        )
        return day_share(Period(start=start, end=period.end), period, UTC_ZONE, days=days)
    first, last = map(int, given["day_of_month"].split(" -> "))
    covered = Period(
        start=midnight(f"2026-03-{first}"),
        end=midnight(f"2026-{'03' if last > first else '04'}-{last}"),
    )
    period = month(2026, 3, UTC_ZONE, anchor_day=15)
    return day_share(covered, period, UTC_ZONE, days=days)


@pytest.mark.parametrize("case", cases_of(["proration_coefficient"]), ids=name_of)
def test_golden_part_of_a_period(case):
    (member,) = case["expected"]
    places = int(member.removeprefix("coefficient_").removesuffix("dp"))
    share = share_of(case)

    part = round_half_up(Fraction(share.days, share.of_days), places)

    assert part == Decimal(case["expected"][member])


@pytest.mark.parametrize("case", cases_of(["proration_window"]), ids=name_of)
def test_golden_days_of_a_quarter(case):
    period = span(case["price"]["period"])
    covered = Period(start=midnight(case["input"]["start"]), end=period.end)

    share = day_share(covered, period, UTC_ZONE)

    assert share.days == int(case["expected"]["numerator_days"])
    assert share.of_days == int(case["expected"]["denominator_days"])
    assert share.of_days != int(case["must_not_equal"]["denominator_days"])


@pytest.mark.parametrize("case", cases_of(["proration_change"]), ids=name_of)
def test_golden_change_in_the_middle_of_a_period(case):
    days, of_days = map(int, case["input"]["fraction"].split("/"))
    share = DayShare(days_before=of_days - days, days=days, of_days=of_days)
    expected = case["expected"]
    if "change_date" in case["input"]:
        start, end = (
            midnight(text)
            for text in (case["input"]["change_date"], case["input"]["period"].split("/")[1])
        )
        covered = Period(start=start, end=end)
        inside = span(case["input"]["period"])
        assert policies_of(case).proration_days is ProrationDays.INCLUSIVE
        assert day_share(covered, inside, UTC_ZONE, days=ProrationDays.INCLUSIVE) == share
    if "old" not in case["price"]:
        charged = charged_for(case, Decimal(case["price"]["amount"]), share)
        assert charged == Decimal(expected["amount"])
        return
    old, new = (
        Decimal(each["unit"]) * Decimal(each["quantity"])
        for each in (case["price"]["old"], case["price"]["new"])
    )
    credit = credit_unused(
        Money(minor=int(old * 100), currency=USD),
        unused=Fraction(share.days, share.of_days),
        tax_percent=Decimal(0),
    )
    charged = charged_for(case, new, share)

    assert -credit.net.major() == Decimal(expected["credit"])
    assert charged == Decimal(expected["charge"])
    assert charged - credit.net.major() == Decimal(expected["net"])


def charged_for(case, amount: Decimal, share: DayShare) -> Decimal:
    fee = flat_fee(key="golden", description=case["id"], amount=amount)
    return rounded_of(rated(plan_of(case, fee), of=Slice(share=share)))


@pytest.mark.parametrize("case", cases_of(DAYS), ids=name_of)
def test_golden_calendar_days(case):
    local = zone(case["price"]["timezone"])
    given = case["input"]
    if "from_instant" in given:
        start, end = (
            parse_instant(given[name], field=name) for name in ("from_instant", "to_instant")
        )
    else:
        start, end = (
            local_midnight(date.fromisoformat(given[name]), local) for name in ("from", "to")
        )

    days = days_between(start, end, local)

    assert days == int(case["expected"]["days"])
    if "must_not_equal" in case:
        assert days != int(case["must_not_equal"]["days"])
    if start < end:
        # Proration counts the same days.
        around = Period(start=start - timedelta(days=40), end=end + timedelta(days=40))
        assert day_share(Period(start=start, end=end), around, local).days == days


@pytest.mark.parametrize("case", cases_of(HOURS), ids=name_of)
def test_golden_local_hours(case):
    instant = parse_instant(case["input"]["instant"], field="instant")

    start = hour_start(instant, zone(case["price"]["timezone"]))

    assert start == parse_instant(case["expected"]["bucket_start"], field="start")
    if "must_not_equal" in case:
        assert start != parse_instant(case["must_not_equal"]["bucket_start"], field="start")


@pytest.mark.parametrize("case", cases_of(["anchor_clamping"]), ids=name_of)
def test_golden_anchors_on_the_last_days(case):
    first = date.fromisoformat(case["input"]["start"])
    anchor = case["price"]["anchor_day"]
    starts = case["expected"]["period_starts"]
    periods = [
        month(first.year + months // 12, months % 12 + 1, UTC_ZONE, anchor_day=anchor)
        for months in range(first.month - 1, first.month - 1 + len(starts))
    ]

    assert [f"{period.start:%Y-%m-%d}" for period in periods] == starts
    assert all(left.end == right.start for left, right in pairwise(periods))
