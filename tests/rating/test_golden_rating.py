"""Cases taken as facts from other systems: tests/golden/rating_cases.jsonl.

A case holds if the exact or the rounded amount equals what is expected.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from billing.catalog.charge import Charge
from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.money import currency
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee, graduated, per_unit

CASES_FILE = Path(__file__).parents[1] / "golden" / "rating_cases.jsonl"
CATEGORIES = {"standard", "graduated", "flat", "currency_rounding"}
CASES = [
    case
    for case in map(json.loads, CASES_FILE.read_text(encoding="utf-8").splitlines())
    if case["category"] in CATEGORIES
]
USAGE_CASES = [case for case in CASES if case["category"] != "currency_rounding"]
ROUNDING_CASES = [case for case in CASES if case["category"] == "currency_rounding"]
SELECTOR = Selector(meter="requests")


def scale(case) -> Decimal:
    """Prices of a case may be in minor units; ours are in major units."""
    return Decimal("0.01") if case["unit"] == "minor" else Decimal(1)


def charge_of(case) -> Charge:
    price = case["price"]
    head = {"key": "golden", "description": case["id"]}
    if "tiers" not in price:
        unit = Decimal(price["unit"]) * scale(case)
        return per_unit(**head, selector=SELECTOR, price=unit)
    tiers = tuple(
        Tier(
            up_to=None if tier["up_to"] is None else Decimal(tier["up_to"]),
            unit=Decimal(tier["unit"]) * scale(case),
            flat=Decimal(tier["flat"]) * scale(case),
        )
        for tier in price["tiers"]
    )
    return graduated(**head, selector=SELECTOR, tiers=tiers)


def plan_of(case, charge: Charge, code: str = "USD") -> PricePlan:
    policy = case.get("policy", {}).get("zero_usage_first_flat", "skip")
    return PricePlan(
        slug="golden",
        name="Golden",
        currency=currency(code),
        charges=(charge,),
        policies=Policies(zero_usage_first_flat=ZeroUsageFirstFlat(policy)),
    )


def requests(quantity: Decimal | str | int, before: Decimal | int = 0) -> list[MeteredQuantity]:
    return [MeteredQuantity(meter="requests", quantity=Decimal(quantity), before=Decimal(before))]


def test_the_golden_set_is_complete():
    assert len(CASES) == 42
    assert {case["adopt"] for case in CASES} <= {"yes", "policy"}


@pytest.mark.parametrize("case", USAGE_CASES, ids=lambda case: case["id"])
def test_golden_usage(case):
    rating = rate(plan_of(case, charge_of(case)), requests(case["input"]["quantity"]))

    exact = sum((line.exact for line in rating.lines), Decimal(0))
    assert exact == Decimal(case["expected"]["amount"]) * scale(case)
    assert rating.unrated == ()


@pytest.mark.parametrize("case", USAGE_CASES, ids=lambda case: case["id"])
def test_R2_golden_usage_in_two_slices_costs_the_same(case):
    plan = plan_of(case, charge_of(case))
    quantity = Decimal(case["input"]["quantity"])
    first = quantity * Decimal("0.3")

    slices = [
        rate(plan, requests(first)),
        rate(plan, requests(quantity - first, first), of=Slice(opens_period=False)),
    ]

    exact = sum((line.exact for slice_ in slices for line in slice_.lines), Decimal(0))
    assert exact == Decimal(case["expected"]["amount"]) * scale(case)


@pytest.mark.parametrize("case", ROUNDING_CASES, ids=lambda case: case["id"])
def test_golden_rounding(case):
    fee = flat_fee(key="golden", description=case["id"], amount=Decimal(case["input"]["amount"]))
    plan = plan_of(case, fee, case["price"]["currency"])

    (line,) = rate(plan, []).lines

    assert line.exact == Decimal(case["input"]["amount"])
    assert line.amount.major() == Decimal(case["expected"]["rounded"])


def test_zero_usage_policies_differ():
    """The one golden case that hangs on a policy must fail under the other."""
    (case,) = [case for case in USAGE_CASES if case["id"] == "lago-001"]
    skipped = {**case, "policy": {}}

    assert rate(plan_of(skipped, charge_of(case)), requests(0)).lines == ()
