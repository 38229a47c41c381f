"""Dates as people type them, in the right zone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from billing.cli.when import billing_month, chosen_period, instant
from billing.errors import InvalidInput
from billing.period import Period
from billing.tenancy.tenant import Tenant

NOVEMBER = Period(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))


def tenant(zone: str, anchor_day: int = 1) -> Tenant:
    return Tenant(
        id=1, slug="acme", name="Acme", legal_entity="foundry", zone=zone, anchor_day=anchor_day
    )


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def test_a_date_is_the_midnight_of_its_zone():
    assert instant("2026-11-01", in_zone="UTC", field="from") == at(2026, 11, 1)
    assert instant("2026-11-01", in_zone="Asia/Kolkata", field="from") == at(2026, 10, 31, 18, 30)
    assert instant("2026-11-01T06:00:00+02:00", in_zone="Asia/Kolkata", field="x") == at(
        2026, 11, 1, 4
    )


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11-01T00:00:00"])
def test_what_is_no_instant_is_refused(text):
    with pytest.raises(InvalidInput) as refused:
        instant(text, in_zone="UTC", field="from")
    assert refused.value.field == "from"


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Auckland"])
@pytest.mark.parametrize("anchor_day", [1, 15, 31])
def test_a_month_is_the_billing_period_that_begins_in_it(zone, anchor_day):
    owner = tenant(zone, anchor_day)
    period = billing_month("2026-02", owner)
    assert period == owner.billing_period(period.start)
    begins = period.start.astimezone(ZoneInfo(zone))
    assert (begins.year, begins.month, begins.day) == (2026, 2, min(anchor_day, 28))


def test_options_name_one_period():
    def chosen(**options: str) -> Period:
        return chosen_period(
            period=options.get("period"),
            since=options.get("since"),
            until=options.get("until"),
            in_zone="UTC",
        )

    assert chosen(period="2026-11") == NOVEMBER
    assert chosen(since="2026-11-01", until="2026-12-01") == NOVEMBER
    for options in (
        {},
        {"since": "2026-11-01"},
        {"until": "2026-11-01"},
        {"period": "2026-11", "since": "2026-11-01"},
        {"since": "2026-12-01", "until": "2026-11-01"},
        {"period": "2026-11-01"},
    ):
        with pytest.raises(InvalidInput):
            chosen(**options)
