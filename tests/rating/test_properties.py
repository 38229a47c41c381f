"""Rating over drawn plans and usage, against an independent oracle in rational numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.price import PerUnit
from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import Selector
from billing.errors import AmountOutOfRange
from billing.money import EXACT, MINOR_LIMIT, currency
from billing.planfiles.plan_dump import dump
from billing.planfiles.plan_file import load_document
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import per_unit
from tests.rating.oracle import amount, rounded
from tests.strategies import PATIENT, decimals, plans, tokens, usage, usage_charges

REQUESTS = Selector(meter="requests")
charges = usage_charges(REQUESTS, "drawn")
policies = st.sampled_from(ZeroUsageFirstFlat)


def plan_with(charge, policy=ZeroUsageFirstFlat.SKIP) -> PricePlan:
    return PricePlan(
        slug="drawn",
        name="Drawn",
        currency=currency("USD"),
        charges=(charge,),
        policies=Policies(zero_usage_first_flat=policy),
    )


def metered(quantity, before=Decimal(0)) -> list[MeteredQuantity]:
    return [MeteredQuantity(meter="requests", quantity=quantity, before=before)]


def exact_of(rating) -> Decimal:
    with localcontext(EXACT):
        return sum((line.exact for line in rating.lines), Decimal(0))


@PATIENT
@given(charges, tokens, policies)
def test_amounts_equal_the_oracle_up_to_1e18_units_and_1e_minus_18_prices(charge, quantity, policy):
    expected = amount(charge, Fraction(quantity), flat_at_zero=policy is ZeroUsageFirstFlat.CHARGE)
    try:
        rating = rate(plan_with(charge, policy), metered(quantity))
    except AmountOutOfRange:
        assert rounded(expected, 2) >= MINOR_LIMIT
        return

    assert Fraction(exact_of(rating)) == expected
    for line in rating.lines:
        assert line.amount.minor == rounded(expected, 2)


@PATIENT
@given(charges, st.lists(decimals(limit=10**9, places=3), min_size=1, max_size=8), policies)
def test_R2_splitting_usage_over_slices_never_changes_the_total(charge, parts, policy):
    plan = plan_with(charge, policy)
    whole = rate(plan, metered(sum(parts, Decimal(0))))
    total, before = Decimal(0), Decimal(0)
    with localcontext(EXACT):
        for number, part in enumerate(parts):
            total += exact_of(rate(plan, metered(part, before), of=Slice(opens_period=number == 0)))
            before += part

    assert total == exact_of(whole)


@PATIENT
@given(charges, tokens, tokens, policies)
def test_R3_more_usage_never_costs_less(charge, one, other, policy):
    fewer, more = sorted([one, other])
    plan = plan_with(charge, policy)
    try:
        assert exact_of(rate(plan, metered(fewer))) <= exact_of(rate(plan, metered(more)))
    except AmountOutOfRange:
        assert amount(charge, Fraction(more), flat_at_zero=True) * 100 + 1 >= MINOR_LIMIT


@PATIENT
@given(plans(), usage)
def test_R5_R7_every_quantity_is_on_one_line_or_in_the_unrated_queue(plan, quantities):
    rating = rate(plan, quantities)

    given_totals: dict[str, Decimal] = defaultdict(Decimal)
    for quantity in quantities:
        given_totals[quantity.meter] += quantity.quantity
    seen: dict[str, Decimal] = defaultdict(Decimal)
    for line in rating.lines:
        if line.meter:
            seen[line.meter] += line.quantity
    for unrated in rating.unrated:
        seen[unrated.meter] += unrated.quantity
        assert unrated.quantity > 0
        assert not any(
            selector.selects(unrated.meter, unrated.model)
            for charge in plan.charges
            if (selector := charge.selector)
        )
    for meter in given_totals.keys() | seen.keys():
        assert seen[meter] == given_totals[meter]


@PATIENT
@given(plans(), usage, st.randoms(use_true_random=False))
def test_R6_order_grouping_and_storage_of_the_plan_change_nothing(plan, quantities, random):
    shuffled = [
        MeteredQuantity(meter=q.meter, model=q.model, quantity=part)
        for q in quantities
        for part in (q.quantity - min(q.quantity, Decimal(1)), min(q.quantity, Decimal(1)))
    ]
    random.shuffle(shuffled)
    stored = load_document(dump(plan))

    assert rate(stored, shuffled) == rate(plan, quantities)


@PATIENT
@given(plans(), usage)
def test_explanations_can_be_redone_by_hand(plan, quantities):
    product = re.compile(r"([\d.,]+) x ([\d.,]+) = ([\d.,]+)")
    with localcontext(EXACT):
        for line in rate(plan, quantities).lines:
            addends = [step.amount for step in line.explanation if step.amount is not None]
            assert sum(addends, Decimal(0)) == line.exact
            for step in line.explanation:
                for left, right, result in product.findall(step.text.replace(",", "")):
                    assert Decimal(left) * Decimal(right) == Decimal(result) == step.amount
            assert str(line.amount) in line.explanation[-1].text


@PATIENT
@given(plans(), usage)
def test_shares_by_model_add_up_to_the_quantity(plan, quantities):
    for line in rate(plan, quantities).lines:
        weights = [weight for _, weight in line.by_model]
        assert min(weights) > 0
        if line.quantity > 0:
            assert sum(weights) == line.quantity
        assert len({model for model, _ in line.by_model}) == len(weights)


def test_no_digit_is_lost_silently():
    """A step that would round raises, whatever the caller's context; rating answers by name."""
    with localcontext(EXACT), pytest.raises(Inexact):
        _ = Decimal(1) / Decimal(3)

    price = most = Decimal("999999999999999999.999999999999999999")
    charge = per_unit(key="k", description="K", selector=REQUESTS, price=price)
    with localcontext() as context:
        context.prec = 28
        with pytest.raises(AmountOutOfRange):
            rate(plan_with(charge), metered(Decimal(10) ** 18))
        tiny = replace(charge, price=PerUnit(price=Decimal("1E-18")))
        (line,) = rate(plan_with(tiny), metered(most)).lines

    # 18 decimals of the price on 18 of the quantity.
    assert line.exact == Decimal("0.999999999999999999999999999999999999")
