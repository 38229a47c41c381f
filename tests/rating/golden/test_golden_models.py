"""Golden cases of price models: one charge, one period, one quantity."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from billing.catalog.price import Volume
from billing.catalog.price_plan import AllowanceInVolume
from billing.errors import InvalidPlan
from tests.rating.golden.cases import (
    LATER,
    OPENING,
    cases_of,
    charge_of,
    exact_of,
    holds,
    name_of,
    plan_of,
    rated,
    used,
)

WHOLE = (
    "graduated",
    "volume",
    "package",
    "standard",
    "flat",
    "package_rounding",
    "graduated_percentage",
    "commitment_min_max",
    "unit_conversion",
    "tier_flat_fee",
    "tier_cap",
    "metered_unit",
    "negative_usage",
    "graduated_refund",
    "volume_refund",
    "volume_with_allowance",
    "billing_units",
    "float_safety",
    "token_volume",
    "block_graduated",
    "block_volume",
    "outcome_count",
    "dynamic_multiplier",
)
REFUSED = ("validation", "graduated_bounded")
OTHERS = ("package_count", "micro_price", "volume_gap", "volume_of_packages", "sub_cent_block")
CATEGORIES = (*WHOLE, *REFUSED, *OTHERS)


def quantity_of(case) -> Decimal:
    given = case["input"]
    members = ("quantity", "tokens", "amount_base", "cumulative_base", "outcomes", "metered_cost")
    return Decimal(next(given[member] for member in members if member in given))


@pytest.mark.parametrize("case", cases_of(WHOLE), ids=name_of)
def test_golden_period(case):
    member = "cumulative_amount" if "cumulative_amount" in case["expected"] else "amount"
    rating = rated(plan_of(case, charge_of(case)), used(quantity_of(case)))

    holds(case, rating, member)
    if "lines" in case["expected"]:
        amounts = [step.amount for step in rating.lines[0].explanation if step.amount is not None]
        assert amounts == [Decimal(text) for text in case["expected"]["lines"]]


@pytest.mark.parametrize("case", cases_of(WHOLE), ids=name_of)
def test_R2_golden_period_in_two_slices_costs_the_same(case):
    plan = plan_of(case, charge_of(case))
    quantity = quantity_of(case)
    first = quantity * Decimal("0.3")

    whole = rated(plan, used(quantity))
    slices = [
        rated(plan, used(first), of=OPENING),
        rated(plan, used(quantity - first, first), of=LATER),
    ]

    assert sum(map(exact_of, slices)) == exact_of(whole)


@pytest.mark.parametrize(
    "case",
    [case for case in cases_of(WHOLE) if "delta_vs_previous_event" in case["expected"]],
    ids=name_of,
)
def test_golden_event_by_event(case):
    """The cases are successive readings of one total."""
    readings = [
        Decimal(other["input"]["cumulative_base"])
        for other in cases_of(["graduated_percentage"])
        if "cumulative_base" in other["input"]
    ]
    now = quantity_of(case)
    before = max((reading for reading in readings if reading < now), default=Decimal(0))

    rating = rated(plan_of(case, charge_of(case)), used(now - before, before), of=LATER)

    holds(case, rating, "delta_vs_previous_event")


@pytest.mark.parametrize("case", cases_of(REFUSED), ids=name_of)
def test_golden_refusal(case):
    """Usage beyond the last tier cannot arise: a plan whose last tier ends is refused."""
    with pytest.raises(InvalidPlan) as refused:
        charge_of(case)

    assert (refused.value.field or "").startswith("tiers")


@pytest.mark.parametrize("case", cases_of(["package_count"]), ids=name_of)
def test_golden_number_of_packages(case):
    """At a price of one, the amount is the number."""
    rating = rated(plan_of(case, charge_of(case)), used(quantity_of(case)))

    assert exact_of(rating) == Decimal(case["expected"]["packages"])


@pytest.mark.parametrize("case", cases_of(["micro_price"]), ids=name_of)
def test_golden_micro_price(case):
    rating = rated(plan_of(case, charge_of(case)), used(quantity_of(case)))

    assert rating.lines[0].amount.minor == int(case["expected"]["amount"])
    assert exact_of(rating) > 0


@pytest.mark.parametrize("case", cases_of(["volume_gap"]), ids=name_of)
def test_golden_gap_between_whole_bounds(case):
    rating = rated(plan_of(case, charge_of(case)), used(quantity_of(case)))

    assert exact_of(rating) in {Decimal(text) for text in case["expected"]["amount_in"]}
    assert exact_of(rating) != Decimal(case["must_not_equal"]["amount"])


@pytest.mark.parametrize("case", cases_of(["volume_of_packages"]), ids=name_of)
def test_golden_packages_in_a_tier(case):
    tier = case["price"]["matched_tier"]
    blocks = [
        {"block_size": tier["package_size"], "max_blocks": None, "block_price": tier["amount"]}
    ]
    priced = {**case, "price": {"policy": "TOP_TIER", "tiers": blocks}}

    holds(case, rated(plan_of(case, charge_of(priced)), used(quantity_of(case))))


@pytest.mark.parametrize("case", cases_of(["sub_cent_block"]), ids=name_of)
def test_golden_exact_and_rounded(case):
    (line,) = rated(plan_of(case, charge_of(case)), used(quantity_of(case))).lines

    assert line.exact == Decimal(case["expected"]["exact"])
    assert line.amount.major() == Decimal(case["expected"]["rounded"])


@pytest.mark.parametrize("case", cases_of(["volume_with_allowance"]), ids=name_of)
def test_golden_allowance_as_a_plan_writes_it(case):
    """The tiers of the case are derived; written as an allowance, they come to the same."""
    charge = charge_of(case)
    assert isinstance(charge.price, Volume)
    free = charge.price.tiers[0].up_to
    assert free is not None
    shifted = tuple(
        replace(tier, up_to=None if tier.up_to is None else tier.up_to - free)
        for tier in charge.price.tiers[1:]
    )
    plan = plan_of(case, replace(charge, included=free, price=replace(charge.price, tiers=shifted)))
    other = replace(
        plan, policies=replace(plan.policies, allowance_in_volume=AllowanceInVolume.STAYS_FREE)
    )
    usage = used(quantity_of(case))

    holds(case, rated(plan, usage))
    assert (exact_of(rated(other, usage)) < exact_of(rated(plan, usage))) is (usage.quantity > free)
