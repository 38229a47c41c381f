"""Charges that ask of their meter what recorded usage of it cannot answer are refused."""

from __future__ import annotations

import pytest

from billing.errors import InvalidPlan
from billing.metering.meter import Aggregation, State
from billing.planfiles.plan_file import read_price_books
from tests.charges import declared

HEAD = """\
slug: plan
name: A plan
currency: USD
windows:
  day: {from: "08:00", to: "20:00"}
charges:
  - {type: per_unit, key: day, description: D, meter: requests, price: 1, during: day}
"""
ASKS = {
    "where": ("per_unit", "price: 1, where: {region: [eu]}"),
    "split_by": ("per_unit", "price: 1, split_by: [region]"),
    "during": ("per_unit", "price: 1, during: day"),
    "restart": ("per_unit", "price: 1, restart: day"),
    "window": ("reserved", "committed: 1, window: hour, price: 1, overage: 1"),
    "commitment.window": ("per_unit", "price: 1, commitment: {amount: 1, window: day}"),
    "meter": ("percentage", "percent: 1, fixed: 1"),
    "prorated": ("per_unit", "price: 1, prorated: true"),
}
BY_TIME = {"during", "restart", "window", "commitment.window"}


def refusals(member: str, aggregation: Aggregation) -> list[InvalidPlan]:
    kind, terms = ASKS[member]
    text = f"{HEAD}  - {{type: {kind}, key: k, description: K, meter: m, {terms}}}\n"
    meters = declared("m", dimensions=["region"], aggregation=aggregation)
    return list(read_price_books(text, meters=meters)[1])


@pytest.mark.parametrize("aggregation", Aggregation)
@pytest.mark.parametrize("member", ASKS)
def test_a_charge_asks_only_what_its_meter_answers(member, aggregation):
    answers = {
        "prorated": aggregation is Aggregation.TIME_WEIGHTED_SUM,
        **dict.fromkeys(BY_TIME, aggregation is Aggregation.TIME_WEIGHTED_SUM),
    }.get(member, False)
    if aggregation.state is State.ADDITIVE:
        answers = member != "prorated"

    found = refusals(member, aggregation)

    if answers:
        assert found == []
        return
    (refused,) = found
    assert (refused.field, refused.line) == (f"charges[1].{member}", 8)
    assert refused.remedy


@pytest.mark.parametrize("meter", ["requests", "tokens.input", "audio.seconds", "outcome.solved"])
def test_built_in_meters_have_no_dimensions_that_they_do_not_declare(meter):
    text = f"{HEAD}  - {{type: per_unit, key: k, description: K, meter: {meter}, price: 1, "
    (refused,) = read_price_books(text + "where: {region: [eu]}}\n")[1]
    assert refused.field == "charges[1].where"


def test_prorated_units_are_of_the_whole_charge_all_the_time():
    """Neither a window nor a split is known of a level that is read by days."""
    meters = declared("m", dimensions=["region"], aggregation=Aggregation.TIME_WEIGHTED_SUM)
    for terms in ("during: day", "split_by: [region]"):
        text = f"{HEAD}  - {{type: per_unit, key: k, description: K, meter: m, price: 1, "
        (refused,) = read_price_books(text + f"prorated: true, {terms}}}\n", meters=meters)[1]
        assert refused.field == "charges[1].prorated"
