"""Golden cases of periods in parts: progressive billing, late usage, corrections, bounds."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.catalog.price_plan import ZeroUsageFirstFlat
from billing.invoicing.invoice import LineBasis, due_on_line
from billing.invoicing.invoice import draft_invoice as draft
from billing.money import currency, from_minor
from billing.rating.line import LineKind
from tests.rating.golden.cases import (
    LATER,
    OPENING,
    cases_of,
    charge_of,
    exact_of,
    holds,
    major,
    name_of,
    plan_of,
    rated,
    rounded_of,
    used,
)

BOUNDED = ("maximum_cap", "package_maximum", "discount_then_maximum", "dynamic_multiplier_cap")
PROGRESSIVE = ("graduated_progressive", "package_progressive", "unit_conversion_split")
CORRECTED = ("delta_rerating", "late_usage_reconcile")
OTHERS = ("usage_discount", "event_order_same_timestamp", "sub_cent_residual")
CATEGORIES = (*BOUNDED, *PROGRESSIVE, *CORRECTED, *OTHERS)
USD = currency("USD")


def quantity_before(case, plan) -> Decimal:
    """Usage that came to what the case says was billed before."""
    given = case["input"]
    if "previous_quantity" in given:
        before = Decimal(given["previous_quantity"])
    else:
        (charge,) = plan.charges
        kept = 1 - charge.adjustments.discount_percent / 100
        before = (Decimal(given["previous_billed"]) / (charge.price.price * kept)).quantize(
            Decimal("0.01")
        )
    if "previous_billed" in given:
        billed = rounded_of(rated(plan, used(before), of=OPENING))
        assert billed == Decimal(given["previous_billed"])
    return before


@pytest.mark.parametrize("case", cases_of(BOUNDED), ids=name_of)
def test_golden_maximum_in_a_later_slice(case):
    plan = plan_of(case, charge_of(case))
    given = case["input"]
    quantity = given.get("line_quantity") or given["metered_cost"]

    rating = rated(plan, used(quantity, quantity_before(case, plan)), of=LATER)

    expected = {name: Decimal(text) for name, text in case["expected"].items()}
    assert rounded_of(rating) == expected["net"]
    if "gross" in expected:
        assert rounded_of(rating, LineKind.CHARGE) == expected["gross"]
        assert rounded_of(rating, LineKind.MAXIMUM) == -expected["discount"]


@pytest.mark.parametrize("case", cases_of(PROGRESSIVE), ids=name_of)
def test_golden_later_slice(case):
    plan = plan_of(case, charge_of(case))
    before = quantity_before(case, plan)
    slice_ = rated(plan, used(case["input"]["line_quantity"], before), of=LATER)

    holds(case, slice_)
    if "period_total" in case["expected"]:
        total = exact_of(rated(plan, used(before), of=OPENING)) + exact_of(slice_)
        assert total == Decimal(case["expected"]["period_total"])
        assert total != Decimal(case["must_not_equal"]["period_total"])


@pytest.mark.parametrize("case", cases_of(["delta_rerating"]), ids=name_of)
def test_R4_golden_correction(case):
    plan = plan_of(case, charge_of(case))
    first = rated(plan, used(case["input"]["first_run_quantity"]))
    second = rated(plan, used(case["input"]["second_run_quantity"]))

    holds(case, first, "first_amount")
    due = due_on_line(exact_of(second), first.lines[0].amount.minor, USD)
    assert from_minor(due, USD) == Decimal(case["expected"]["correction"])


@pytest.mark.parametrize("case", cases_of(["late_usage_reconcile"]), ids=name_of)
def test_R4_golden_late_usage(case):
    rating = rated(plan_of(case, charge_of(case)), used(case["input"]["quantity_now"]))

    billed = int(major(case, case["input"]["already_billed"]) * 100)
    due = due_on_line(exact_of(rating), billed, USD)
    assert from_minor(due, USD) == Decimal(case["expected"]["amount"])


@pytest.mark.parametrize("case", cases_of(["usage_discount"]), ids=name_of)
def test_golden_free_usage_used_up_earlier(case):
    """At a price of one, the amount is what is billable."""
    given = case["input"]
    usage = used(given["line_quantity"], given["previous_quantity"])

    (line,) = rated(plan_of(case, charge_of(case)), usage, of=LATER).lines

    assert line.exact == Decimal(case["expected"]["billable"])
    assert line.quantity - line.exact == Decimal(case["expected"]["discounted"])


@pytest.mark.parametrize("case", cases_of(["event_order_same_timestamp"]), ids=name_of)
def test_golden_events_of_one_instant(case):
    plan = plan_of(case, charge_of(case))
    events = range(case["input"]["events_same_timestamp"])
    amounts = [exact_of(rated(plan, used(1, number), of=LATER)) for number in events]

    assert amounts == [Decimal(text) for text in case["expected"]["per_event"]]
    assert sum(amounts) == Decimal(case["expected"]["total"])
    assert sum(amounts) != Decimal(case["must_not_equal"]["total"])


@pytest.mark.parametrize("case", cases_of(["sub_cent_residual"]), ids=name_of)
def test_golden_residual_is_carried(case):
    price = case["price"]
    usage = charge_of(
        {
            **case,
            "price": {"unit": price["overage_unit"], "free_units": price["included_tokens"]},
        }
    )
    (line,) = rated(plan_of(case, usage), used(case["input"]["tokens"])).lines
    base = LineBasis(key="base", description="Base", quantity=None, exact=Decimal(price["base"]))
    over = LineBasis(key=line.key, description="Over", quantity=line.quantity, exact=line.exact)

    invoice = draft([base, over], currency=USD)

    expected = {name: Decimal(text) for name, text in case["expected"].items()}
    assert base.exact + over.exact == expected["exact"]
    assert from_minor(invoice.totals.total_minor, USD) == expected["invoice"]
    assert invoice.residual_after == expected["residual_carried"]


def test_the_first_flat_fee_is_the_policys_in_every_slice():
    """Of two plans that differ in the policy alone, the fee without usage differs alone."""
    (case, *_) = cases_of(["graduated_progressive"])
    charging = {**case, "policy": {"zero_usage_first_flat": ZeroUsageFirstFlat.CHARGE.value}}

    for quantity, differs in ((0, True), (1, False)):
        skipped, charged = (
            exact_of(rated(plan_of(each, charge_of(each)), used(quantity)))
            for each in (case, charging)
        )
        assert (skipped != charged) is differs
