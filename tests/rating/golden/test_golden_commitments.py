"""Golden cases of what is due beyond usage: minimums, commitments, coupons."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from billing.catalog.adjustment import Adjustments, Commitment, Coupon, SpendCommitment
from billing.catalog.charge import Charge
from billing.catalog.price import PerUnit, Span
from billing.catalog.selector import Selector
from billing.catalog.window import weekly
from billing.period import Period
from billing.rating.line import LineKind
from billing.rating.pipeline import WHOLE_PERIOD, Slice
from billing.rating.proration import DayShare
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee
from tests.rating.golden.cases import (
    SELECTOR,
    ZERO,
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

FEES = ("minimum_commitment", "minimum_charge", "spending_minimum")
COUPONS = ("coupon_percentage", "coupon_fixed")
OTHERS = ("commitment_overage", "true_up_rounding", "windowed_commitment")
CATEGORIES = (*FEES, *COUPONS, *OTHERS)
MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
EVERY_DAY = range(7)


@pytest.mark.parametrize(
    "case", [case for case in cases_of(FEES) if "fees" in case["input"]], ids=name_of
)
def test_golden_minimum_over_fees(case):
    """It is a commitment of the plan. Fees of a case are what was charged for its days."""
    fees = [
        Charge(
            key=f"fee-{number}",
            description="Fee",
            selector=Selector(meter=f"fee.{number}"),
            # Of a unit, since a price per unit is not prorated once more.
            price=PerUnit(price=major(case, amount)),
        )
        for number, amount in enumerate([*case["input"]["fees"], "0"])
    ]
    promised = SpendCommitment(
        key="minimum", description="Minimum", amount=major(case, case["price"]["minimum"])
    )
    usage = [
        MeteredQuantity(meter=f"fee.{number}", quantity=Decimal(1)) for number in range(len(fees))
    ]

    rating = rated(plan_of(case, *fees, commitments=(promised,)), *usage, of=_slice(case))

    assert rounded_of(rating, LineKind.TRUE_UP) == major(case, case["expected"]["true_up"])
    if "total" in case["expected"]:
        assert rounded_of(rating) == major(case, case["expected"]["total"])


@pytest.mark.parametrize(
    "case", [case for case in cases_of(FEES) if "fees" not in case["input"]], ids=name_of
)
def test_golden_minimum_of_a_charge(case):
    rating = rated(plan_of(case, charge_of(case)), used(*_usage(case)), of=_slice(case))

    if "amount" in case["expected"]:
        holds(case, rating)
    else:
        assert rounded_of(rating, LineKind.MINIMUM) == Decimal(case["expected"]["true_up"])


def _usage(case) -> tuple[str, str]:
    """Quantity and what was used before; billed before was the first tier's flat fee."""
    given = case["input"]
    if "previous_billed" not in given:
        return given["quantity"], "0"
    (first, *_) = case["price"]["tiers"]
    assert first["flat"] == given["previous_billed"]
    return given["line_quantity"], first["up_to"]


def _slice(case) -> Slice:
    given = case["input"]
    if "days" in given:
        days, of_days = map(int, given["days"].split("/"))
        return Slice(share=DayShare(days_before=of_days - days, days=days, of_days=of_days))
    if "last_line_of_period" in given:
        return Slice(opens_period=False)
    return WHOLE_PERIOD


@pytest.mark.parametrize("case", cases_of(COUPONS), ids=name_of)
def test_golden_coupon(case):
    coupon = Coupon(
        key="coupon",
        description="Coupon",
        percent_off=Decimal(case["price"].get("percent_off", "0")),
        amount_off=Decimal(case["price"].get("amount_off", "0")),
    )
    fee = flat_fee(key="fee", description="Fee", amount=Decimal(case["input"]["amount"]))

    rating = rated(plan_of(case, fee, code=case["price"]["currency"], coupons=(coupon,)))

    assert rounded_of(rating, LineKind.COUPON) == -Decimal(case["expected"]["discount"])
    assert rounded_of(rating) == Decimal(case["expected"]["net"])


@pytest.mark.parametrize("case", cases_of(["true_up_rounding"]), ids=name_of)
def test_golden_true_up_of_a_rounded_amount(case):
    price = case["price"]
    bent = Adjustments(commitment=Commitment(amount=Decimal(price["commitment"])))
    charge = charge_of({**case, "price": {"unit": "1"}}, adjustments=bent)

    rating = rated(plan_of(case, charge, code=price["currency"]), used(case["input"]["used"]))

    assert rounded_of(rating, LineKind.TRUE_UP) == Decimal(case["expected"]["true_up"])


@pytest.mark.parametrize("case", cases_of(["commitment_overage"]), ids=name_of)
def test_golden_overage_factor(case):
    price, expected = case["price"], case["expected"]
    promised = Commitment(
        amount=Decimal(price["commitment"]),
        overage_factor=Decimal(price["overage_factor"]),
        true_up=price.get("true_up", False),
    )
    charge = charge_of(
        {**case, "price": {"unit": "1"}}, adjustments=Adjustments(commitment=promised)
    )
    fee = flat_fee(key="fee", description="Fee", amount=Decimal(price["base_fee"]))

    rating = rated(plan_of(case, fee, charge), used(case["input"]["usage_amount"]))

    usage = sum((each.exact for each in rating.lines if each.charge_key == charge.key), ZERO)
    assert usage == Decimal(expected["usage_line"]) != Decimal(case["must_not_equal"]["usage_line"])
    assert rounded_of(rating) == Decimal(expected["invoice"])


@pytest.mark.parametrize("case", cases_of(["windowed_commitment"]), ids=name_of)
def test_golden_commitment_per_hour(case):
    by_hour = case["input"].get("hourly") or {
        f"{hour:02}": value for hour, value in enumerate(case["input"]["window_values"])
    }
    usage = [used(value, at=MONDAY + timedelta(hours=int(hour))) for hour, value in by_hour.items()]
    hours = 24 if "hourly" in case["input"] else len(by_hour)
    covered = Period(start=MONDAY, end=MONDAY + timedelta(hours=hours))

    rating = rated(
        plan_of(case, *hourly_charges(case)),
        *usage,
        of=Slice(covered=covered, zone=ZoneInfo("UTC")),
    )

    assert exact_of(rating) == Decimal(case["expected"]["amount"])


def hourly_charges(case) -> list[Charge]:
    """The charge of the case's hours, and the one of the rest of the day."""
    price = case["price"]
    if "time_of_day_bucket" not in price:
        return [hourly(case, price, SELECTOR)]
    bucket = price["time_of_day_bucket"]
    start, end = bucket["hours"].split("-")
    window = weekly("hours", days=EVERY_DAY, start=f"{start}:00", end=f"{end}:00")
    rest = Selector(meter=SELECTOR.meter, window=window.rest("rest"))
    line = Charge(
        key="rest",
        description="Rest",
        selector=rest,
        price=PerUnit(price=Decimal(price["line"]["unit"])),
    )
    return [hourly(case, bucket, Selector(meter=SELECTOR.meter, window=window)), line]


def hourly(case, terms, selector: Selector) -> Charge:
    """A quantity that was promised is promised at its price."""
    unit = Decimal(terms["unit"])
    if "commit_quantity" in terms:
        amount = Decimal(terms["commit_quantity"]) * unit
    else:
        amount = Decimal(terms["commit_amount"])
    promised = Commitment(
        amount=amount,
        window=Span.HOUR,
        overage_factor=Decimal(terms["overage_factor"]),
        true_up=terms.get("true_up", False),
    )
    return Charge(
        key="hours",
        description=case["id"],
        selector=selector,
        price=PerUnit(price=unit),
        adjustments=Adjustments(commitment=promised),
    )
