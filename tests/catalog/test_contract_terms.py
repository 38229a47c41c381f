"""Terms of a contract: layers over a plan, phases by day, files that say the same as they store."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from billing.catalog.contract_terms import (
    NO_TERMS,
    ContractTerms,
    apply_terms,
    require_fit,
    require_new_terms,
)
from billing.catalog.price import FlatFee, Graduated, PerUnit
from billing.catalog.price_plan import PricePlan
from billing.errors import InvalidPlan
from billing.planfiles.contract_file import dump_terms, load_terms, read_terms, terms_digest
from billing.planfiles.plan_file import read_plan
from tests.world import PLAN

TERMS = """
overrides:
  - {charge: input, price: "0.15", included: 1000000}
  - {charge: platform, price: 10}
commitments:
  - {key: commit, description: Commitment, amount: 100}
coupons:
  - {key: welcome, description: Welcome, percent_off: 10}
phases:
  - from: "2027-01-01"
    overrides:
      - {charge: input, discount_percent: "5"}
      - {charge: output, tiers: [{up_to: 5000000, unit: "0.70"}, {unit: "0.50", cap: 100}]}
    commitments: [{key: commit, description: Commitment, amount: 250, charges: [output, input]}]
  - from: "2027-07-01"
    commitments: [{key: commit, description: Commitment, amount: 400}]
"""
CLASHING_COUPON = """
phases:
  - from: "2027-01-01"
    coupons: [{key: input, description: A, amount_off: 1}]
"""


@pytest.fixture
def plan() -> PricePlan:
    return read_plan(PLAN)


def _refused(plan: PricePlan, text: str) -> InvalidPlan:
    with pytest.raises(InvalidPlan) as refused:
        require_fit(plan, read_terms(text))
    return refused.value


def test_no_terms_leave_the_plan_as_it_is(plan: PricePlan) -> None:
    assert apply_terms(plan, NO_TERMS, begins=date(2027, 1, 1)) == plan
    assert terms_digest(NO_TERMS) is None
    assert dump_terms(NO_TERMS) == {}


def test_each_period_has_the_phase_that_it_begins_in(plan: PricePlan) -> None:
    terms = read_terms(TERMS)
    promised = {
        day: [entry.amount for entry in apply_terms(plan, terms, begins=day).commitments]
        for day in (date(2026, 12, 1), date(2027, 1, 1), date(2027, 6, 1), date(2027, 7, 1))
    }
    assert list(promised.values()) == [[100], [250], [250], [400]]


def test_a_phase_keeps_what_it_does_not_name_and_ends_with_the_next(plan: PricePlan) -> None:
    terms = read_terms(TERMS)
    january = apply_terms(plan, terms, begins=date(2027, 1, 1))
    by_key = {charge.key: charge for charge in january.charges}
    assert by_key["input"].price == PerUnit(price=Decimal("0.15"))
    assert by_key["input"].included == 1_000_000
    assert by_key["input"].adjustments.discount_percent == 5
    assert by_key["platform"].price == FlatFee(amount=Decimal(10))
    output = by_key["output"].price
    assert isinstance(output, Graduated)
    assert [tier.cap for tier in output.tiers] == [None, 100]
    assert [coupon.key for coupon in january.coupons] == ["welcome"]
    july = apply_terms(plan, terms, begins=date(2027, 7, 1))
    by_key = {charge.key: charge for charge in july.charges}
    assert by_key["input"].adjustments.discount_percent == 0
    assert by_key["output"] == next(each for each in plan.charges if each.key == "output")


def test_terms_change_no_selector_so_no_quantity_gets_two_prices(plan: PricePlan) -> None:
    terms = read_terms(TERMS)
    for phase in terms.phases:
        made = apply_terms(plan, terms, begins=phase.begins)
        assert [each.selector for each in made.charges] == [each.selector for each in plan.charges]


def test_stored_terms_read_back_as_they_were_and_keep_their_digest() -> None:
    terms = read_terms(TERMS)
    again = load_terms(dump_terms(terms))
    assert again == terms
    assert terms_digest(again) == terms_digest(terms)
    assert terms_digest(read_terms(TERMS.replace("0.15", "0.16"))) != terms_digest(terms)
    assert isinstance(again, ContractTerms)


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        ("overrides: [{charge: input, prize: 1}]", "overrides[0].prize", 1),
        ("overrides:\n- {charge: input, price: -1}", "overrides[0].price", 2),
        ("overrides:\n- {charge: input}\n- {charge: input}", "overrides[1].charge", 3),
        ("phases:\n- from: soon", "phases[0].from", 2),
        (
            'phases:\n- from: "2027-02-01"\n- from: "2027-01-01"',
            "phases[1].from",
            3,
        ),
        (
            "overrides:\n- charge: output\n  tiers:\n  - {up_to: 1, unit: 1}",
            "overrides[0].tiers",
            3,
        ),
    ],
)
def test_a_file_is_refused_by_line_and_field(text: str, field: str, line: int) -> None:
    with pytest.raises(InvalidPlan) as refused:
        read_terms(text)
    assert str(refused.value.field).startswith(field)
    assert refused.value.line in {line, line + 1}
    assert refused.value.remedy or refused.value.message == "named twice"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("overrides: [{charge: outputs, price: 1}]", "overrides[0].charge"),
        ("overrides: [{charge: output, price: 1}]", "overrides[0].price"),
        ("overrides: [{charge: input, tiers: [{unit: 1}]}]", "overrides[0].tiers"),
        ("overrides: [{charge: platform, included: 1}]", "overrides[0].included"),
        (
            "commitments: [{key: input, description: Twice, amount: 1}]",
            "commitments[0].key",
        ),
        (CLASHING_COUPON, "phases[0].coupons[0].key"),
    ],
)
def test_terms_that_do_not_fit_the_plan_name_their_place(
    plan: PricePlan, text: str, field: str
) -> None:
    assert _refused(plan, text).field == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("commitments: [{key: a, description: A, amount: 1, charges: []}]", "commitments[0]"),
        (
            """
            phases:
              - from: "2027-01-01"
                coupons: [{key: a, description: A, amount_off: 1, charges: []}]
            """,
            "phases[0].coupons[0]",
        ),
    ],
)
def test_terms_for_no_charge_are_refused_when_they_are_agreed_and_stay_readable(
    text: str, field: str
) -> None:
    terms = read_terms(text)
    assert load_terms(dump_terms(terms)) == terms
    with pytest.raises(InvalidPlan, match="the list of charges is empty") as refused:
        require_new_terms(read_plan(PLAN), terms)
    assert refused.value.field == f"{field}.charges"
    assert refused.value.remedy
