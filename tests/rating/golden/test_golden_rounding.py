"""Golden cases of reading and rounding amounts."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.money import currency, exact_decimal, from_minor, to_minor
from tests.charges import flat_fee
from tests.rating.golden.cases import (
    cases_of,
    charge_of,
    name_of,
    plan_of,
    rated,
    rounded_of,
    used,
)

READ = ("amount_parsing", "float_boundary", "wallet_rounding")
OTHERS = ("currency_rounding", "line_then_sum_rounding", "unit_times_quantity_rounding")
CATEGORIES = (*READ, *OTHERS)


@pytest.mark.parametrize("case", cases_of(READ), ids=name_of)
def test_golden_amount_as_text(case):
    """Amounts are read from text, digit by digit: no binary number is in between."""
    (text,) = case["input"].values()
    (member,) = case["expected"]
    usd = currency(case["price"].get("currency", "USD"))
    assert case["price"].get("currency_exponent", 2) == usd.decimals

    amount = from_minor(to_minor(exact_decimal(text, field="amount", decimals_max=30), usd), usd)

    assert amount == Decimal(case["expected"][member])
    if "must_not_equal" in case:
        assert amount != Decimal(case["must_not_equal"][member])


@pytest.mark.parametrize("case", cases_of(["currency_rounding"]), ids=name_of)
def test_golden_line_rounding(case):
    fee = flat_fee(key="golden", description=case["id"], amount=Decimal(case["input"]["amount"]))

    (line,) = rated(plan_of(case, fee, code=case["price"]["currency"])).lines

    assert line.exact == Decimal(case["input"]["amount"])
    assert line.amount.major() == Decimal(case["expected"]["rounded"])


@pytest.mark.parametrize("case", cases_of(["line_then_sum_rounding"]), ids=name_of)
def test_golden_sum_of_rounded_lines(case):
    lines = case["input"]["lines"]
    if isinstance(lines, dict):
        lines = [lines["repeat"]] * lines["times"]
    fees = [
        flat_fee(key=f"fee-{number}", description="Fee", amount=Decimal(text))
        for number, text in enumerate(lines)
    ]

    rating = rated(plan_of(case, *fees, code=case["price"]["currency"]))

    assert len(rating.lines) == len(lines)
    assert rounded_of(rating) == Decimal(case["expected"]["subtotal"])


@pytest.mark.parametrize("case", cases_of(["unit_times_quantity_rounding"]), ids=name_of)
def test_golden_product_is_rounded_once(case):
    charge = charge_of({**case, "price": {"unit": case["input"]["a"]}})

    rating = rated(plan_of(case, charge, code=case["price"]["currency"]), used(case["input"]["b"]))

    assert rounded_of(rating) == Decimal(case["expected"]["amount"])
