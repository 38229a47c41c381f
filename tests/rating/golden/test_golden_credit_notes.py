"""Golden cases of tax and of credit notes."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from billing.catalog.adjustment import SpendCommitment
from billing.errors import InvalidInput
from billing.invoicing.credit_note import credit_unused, credit_within
from billing.invoicing.tax import tax_on
from billing.money import Money, currency
from billing.rating.pipeline import Slice
from billing.rating.proration import DayShare
from tests.charges import flat_fee
from tests.rating.golden.cases import cases_of, charge_of, major, name_of, plan_of, rated

NOTES = ("credit_note_proration", "credit_note_tax_rounding")
OTHERS = ("proration_tax", "credit_note_applied", "credit_cap")
CATEGORIES = (*NOTES, *OTHERS)
USD = currency("USD")


def money(text: str) -> Money:
    return Money(minor=int(text), currency=USD)


def share_of(text: str) -> DayShare:
    days, of_days = map(int, text.split("/"))
    return DayShare(days_before=of_days - days, days=days, of_days=of_days)


@pytest.mark.parametrize("case", cases_of(["proration_tax"]), ids=name_of)
def test_golden_tax_on_the_rounded_net_amount(case):
    price, expected = case["price"], case["expected"]
    fee = flat_fee(key="golden", description="Fee", amount=major(case, price["amount"]))

    (line,) = rated(plan_of(case, fee), of=Slice(share=share_of(case["input"]["days"]))).lines
    tax = tax_on(line.amount, Decimal(price["tax_pct"]))

    assert line.amount == money(expected["net"])
    assert tax == money(expected["tax"])
    assert line.amount + tax == money(expected["total"])


@pytest.mark.parametrize("case", cases_of(NOTES), ids=name_of)
def test_golden_credit_note(case):
    price, given, expected = case["price"], case["input"], case["expected"]

    note = credit_unused(
        money(price["amount"]),
        unused=Fraction(given.get("unused_days") or given["fraction"]),
        tax_percent=Decimal(price["tax_pct"]),
    )

    assert (note.net, note.tax) == (money(expected["net"]), money(expected["tax"]))
    assert note.total == money(expected["total"])


@pytest.mark.parametrize("case", cases_of(["credit_note_applied"]), ids=name_of)
def test_golden_credit_note_against_a_minimum(case):
    price, expected = case["price"], case["expected"]
    promised = SpendCommitment(
        key="minimum", description="Minimum", amount=major(case, price["minimum"])
    )
    plan = plan_of(case, charge_of({**case, "price": {"unit": "1"}}), commitments=(promised,))

    (line,) = rated(plan, of=Slice(share=share_of(case["input"]["days"]))).lines
    tax = tax_on(line.amount, Decimal(price["tax_pct"]))

    assert (line.amount, tax) == (money(expected["fees"]), money(expected["tax"]))
    due = line.amount + tax - money(case["input"]["credit_note"])
    assert due == money(expected["total"])


@pytest.mark.parametrize("case", cases_of(["credit_cap"]), ids=name_of)
def test_golden_credit_never_exceeds_what_was_paid(case):
    given = {name: Money(minor=int(v) * 100, currency=USD) for name, v in case["input"].items()}

    credit = credit_within(
        given["potential"], paid=given["paid"], credited=given["already_credited"]
    )

    assert credit.major() == Decimal(case["expected"]["credit"])


@pytest.mark.parametrize("unused", [Fraction(-1, 2), Fraction(3, 2)])
def test_a_credit_is_for_a_part(unused):
    with pytest.raises(InvalidInput):
        credit_unused(money("100"), unused=unused, tax_percent=Decimal(20))


@pytest.mark.parametrize("percent", ["-1", "100.5"])
def test_a_tax_rate_is_a_percentage(percent):
    with pytest.raises(InvalidInput):
        tax_on(money("100"), Decimal(percent))


def test_tax_on_a_credit_mirrors_the_tax():
    assert tax_on(money("-536"), Decimal(20)) == money("-107")
