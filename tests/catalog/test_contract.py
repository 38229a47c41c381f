"""Contracts: dates on the grid, billing periods of the tenant's calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.catalog.contract import Contract
from billing.errors import InvalidInput
from billing.money import currency
from billing.period import Period


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def contract(**terms) -> Contract:
    return Contract(
        **{
            "id": 1,
            "tenant_id": 2,
            "plan_slug": "plan",
            "plan_version": 3,
            "valid_from": at("2026-01-10T00:00"),
            "currency": currency("EUR"),
            "zone": "Europe/Paris",
            **terms,
        }
    )


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"valid_from": at("2026-01-10T00:07")}, "valid_from"),
        ({"valid_from": datetime(2026, 1, 10)}, "valid_from"),  # noqa: DTZ001  # the point
        ({"valid_until": at("2026-02-01T00:01")}, "valid_until"),
        ({"valid_until": at("2026-01-10T00:00")}, "valid_until"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"anchor_day": 0}, "anchor_day"),
        ({"anchor_day": 32}, "anchor_day"),
    ],
)
def test_refused(terms, field):
    with pytest.raises(InvalidInput) as refused:
        contract(**terms)

    assert refused.value.field == field


def test_in_force_is_half_open():
    end = at("2026-03-01T00:00")
    ended = contract(valid_until=end)
    tick = timedelta(microseconds=1)

    assert not ended.in_force(ended.valid_from - tick)
    assert ended.in_force(ended.valid_from)
    assert ended.in_force(end - tick)
    assert not ended.in_force(end)
    assert contract().in_force(at("2999-01-01T00:00"))


def test_billing_period_follows_the_zone_and_the_anchor():
    period = contract(anchor_day=15).billing_period(at("2026-04-14T22:30"))

    assert period == Period(start=at("2026-04-14T22:00"), end=at("2026-05-14T22:00"))


def test_segment_is_the_part_of_the_period_in_force():
    january = contract().billing_period(at("2026-01-20T00:00"))
    ended = contract(valid_until=at("2026-01-20T12:00"))

    assert contract().segment(january) == Period(start=at("2026-01-10T00:00"), end=january.end)
    assert ended.segment(january) == Period(
        start=at("2026-01-10T00:00"), end=at("2026-01-20T12:00")
    )
    assert ended.segment(contract().billing_period(at("2026-02-20T00:00"))) is None
