"""Prices in credits: the amount in the unit, its rate, and what is shown of both."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidPlan
from billing.planfiles.plan_dump import digest, dump
from billing.planfiles.plan_file import load_document, read_plan, read_price_books
from billing.rating.line import RatedLine
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity

PLAN = """\
slug: plan
name: A plan
currency: USD
currencies: [EUR]
pricing_units: {credits: {rate: {USD: "0.005", EUR: "0.0046"}}}
charges:
  - type: graduated
    key: requests
    description: Requests
    meter: requests
    unit: credits
    tiers: [{up_to: 100, unit: 3, flat: 20}, {unit: 2}]
    discount_percent: 10
    minimum: "1.00"
  - {type: flat_fee, key: fee, description: Fee, unit: credits, amount: 1000}
  - {type: outcome, key: solved, description: Solved, unit: credits, outcome: solved, price: 150}
  - type: matrix
    key: tokens
    description: Tokens
    unit: credits
    per: 1000000
    by: [model, class]
    prices: {m: {input: 40, output: 120}}
"""


def used(meter: str, quantity: int, *, before: int = 0) -> MeteredQuantity:
    model = "m" if meter.startswith("tokens") else None
    return MeteredQuantity(
        meter=meter, model=model, quantity=Decimal(quantity), before=Decimal(before)
    )


def lines(plan: PricePlan, *usage: MeteredQuantity) -> dict[str, RatedLine]:
    return {line.key: line for line in rate(plan, usage).lines}


def test_an_amount_in_credits_is_converted_and_both_are_shown():
    found = lines(
        read_plan(PLAN),
        used("requests", 400),
        used("outcome.solved", 3),
        used("tokens.input", 2_500_000),
        used("tokens.output", 1),
    )

    # 100 at 3 and 20 once, 300 at 2: 920 credits are 4.60, and a tenth less.
    requests = found["requests"]
    assert requests.exact == Decimal("4.14")
    assert [step.text for step in requests.explanation if step.step == "pricing_unit"] == [
        "920 credits x 0.005 = 4.6 USD"
    ]
    assert found["fee"].exact == 5
    assert found["solved"].exact == Decimal("2.25")
    assert found["tokens/m/input"].exact == Decimal("0.5")
    assert found["tokens/m/output"].exact == Decimal("0.0000006")
    texts = [step.text for step in requests.explanation]
    assert any(text.endswith("credits") for text in texts)
    assert not any(text.endswith("900 USD") for text in texts)


def test_R2_slices_add_up_to_the_whole_in_credits():
    plan = read_plan(PLAN)
    first = rate(plan, [used("requests", 150)], of=Slice(closes_period=False))
    rest = rate(plan, [used("requests", 250, before=150)], of=Slice(opens_period=False))
    parts = [line.exact for line in (*first.lines, *rest.lines) if line.key == "requests"]
    assert sum(parts) == lines(plan, used("requests", 400))["requests"].exact


def test_a_minimum_is_in_the_currency():
    found = lines(read_plan(PLAN), used("requests", 1))
    # 23 credits less a tenth are 0.1035, shown as 0.10.
    assert found["requests:minimum"].exact == Decimal("0.90")


def test_units_round_trip_and_have_a_rate_in_each_currency():
    plans, refusals = read_price_books(PLAN)
    assert refusals == ()
    assert [lines(plan)["fee"].exact for plan in plans] == [Decimal(5), Decimal("4.6")]
    assert all(load_document(dump(plan)) == plan for plan in plans)
    assert len({digest(plan) for plan in plans}) == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("    unit: credits\n    tiers", "    unit: points\n    tiers", 11, "charges[0].unit"),
        ('USD: "0.005"', "USD: 0", 5, "pricing_units.credits.rate"),
        ('USD: "0.005"', 'USD: "0.0000000001"', 5, "pricing_units.credits.rate"),
        ("pricing_units: {", "pricing_units: {points: {rate: 1}, ", 5, "pricing_units.points"),
        ("pricing_units: {", "pricing_units: {Points: {rate: 1}, ", 5, "pricing_units.Points"),
    ],
)
def test_refused_units_name_their_place(old, new, line, field):
    assert PLAN.count(old) == 1
    with pytest.raises(InvalidPlan) as refused:
        read_plan(PLAN.replace(old, new))
    assert (refused.value.line, refused.value.field) == (line, field)


def test_a_reservation_is_priced_in_the_currency():
    text = PLAN.partition("charges:")[0] + (
        "charges:\n  - {type: reserved, key: a, description: A, meter: requests, unit: credits,"
        " committed: 5, window: day, price: 1, overage: 2}\n"
    )
    with pytest.raises(InvalidPlan) as refused:
        read_plan(text)
    assert refused.value.field == "charges[0].unit"


BASIC = "slug: plan\nname: A plan\ncurrency: USD\n"
NO_WINDOW = """\
windows: {peak: {from: "08:00", to: "20:00"}, off_peak: {rest_of: pea}}
charges:
  - {type: per_unit, key: peak, description: Peak, meter: requests, during: peak, price: 3}
  - {type: per_unit, key: rest, description: Rest, meter: requests, during: off_peak, price: 1}
"""
NO_UNIT = """\
pricing_units: {Credit: {rate: 1}}
charges:
  - {type: per_unit, key: a, description: A, meter: requests, price: 1, unit: Credit}
  - {type: per_unit, key: b, description: B, meter: tokens.input, price: 1, unit: token}
"""


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (NO_WINDOW, ["windows.off_peak.rest_of"]),
        (NO_UNIT, ["pricing_units.Credit", "charges[1].unit"]),
    ],
)
def test_what_is_for_a_refused_window_or_unit_is_not_refused_for_its_lack(
    text: str, fields: list[str]
) -> None:
    assert [refusal.field for refusal in read_price_books(BASIC + text)[1]] == fields
