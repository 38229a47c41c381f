"""The pipeline on examples small enough to check in the head."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.catalog.price_plan import Policies, PricePlan, ZeroUsageFirstFlat
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import currency
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee, graduated, outcome_price, per_unit

INPUT = per_unit(
    key="input",
    description="Input tokens",
    selector=Selector(meter="tokens.input"),
    price=Decimal("0.40"),
    per=1_000_000,
    included=Decimal(1_000_000),
)
OUTPUT = graduated(
    key="output",
    description="Output tokens",
    selector=Selector(meter="tokens.output", models=frozenset({"small", "large"})),
    per=1000,
    tiers=(
        Tier(up_to=Decimal(10_000), unit=Decimal(2), flat=Decimal(1)),
        Tier(up_to=None, unit=Decimal(1), flat=Decimal(3)),
    ),
)
FEE = flat_fee(key="fee", description="Fee", amount=Decimal("49.005"))
SOLVED = outcome_price(key="solved", description="Solved", outcome="solved", price=Decimal("0.99"))


LATER = Slice(opens_period=False)


def plan(*charges, policy=ZeroUsageFirstFlat.SKIP) -> PricePlan:
    return PricePlan(
        slug="example",
        name="Example",
        currency=currency("USD"),
        charges=charges,
        policies=Policies(zero_usage_first_flat=policy),
    )


def used(meter, quantity, model=None, before=0) -> MeteredQuantity:
    return MeteredQuantity(
        meter=meter, model=model, quantity=Decimal(quantity), before=Decimal(before)
    )


def texts(line) -> list[str]:
    return [step.text for step in line.explanation]


def test_included_usage_is_taken_off_after_conversion_and_before_the_price():
    (line,) = rate(plan(INPUT), [used("tokens.input", 3_456_789, "small")]).lines

    assert line.exact == Decimal("0.9827156")
    assert texts(line) == [
        "3,456,789 tokens / 1,000,000 = 3.456789",
        "3.456789 - 1 included = 2.456789",
        "2.456789 x 0.4 = 0.9827156 USD",
        "0.9827156, rounded 0.98 USD",
    ]


def test_an_allowance_used_up_earlier_in_the_period_is_not_given_again():
    later = rate(plan(INPUT), [used("tokens.input", 500_000, before=800_000)], of=LATER)

    assert later.lines[0].exact == Decimal("0.12")


def test_a_tier_counts_all_models_of_its_charge():
    rating = rate(
        plan(OUTPUT), [used("tokens.output", 8000, "large"), used("tokens.output", 4000, "small")]
    )

    (line,) = rating.lines
    assert line.exact == Decimal(1 + 20 + 2 + 3)
    assert line.by_model == (("large", Decimal(8000)), ("small", Decimal(4000)))
    assert texts(line)[1:] == [
        "tier 1, above 0 up to 10: 10 x 2 = 20 USD",
        "tier 1 entered: 1 USD",
        "tier 2, above 10: 2 x 1 = 2 USD",
        "tier 2 entered: 3 USD",
        "20 + 1 + 2 + 3 = 26, rounded 26.00 USD",
    ]


def test_an_upper_bound_is_inclusive():
    at_bound = rate(plan(OUTPUT), [used("tokens.output", 10_000, "small")])
    above = rate(plan(OUTPUT), [used("tokens.output", 10_001, "small")])

    assert at_bound.lines[0].exact == 21
    assert above.lines[0].exact == Decimal("24.001")


def test_a_flat_fee_is_charged_once_however_the_period_is_sliced():
    opening = rate(plan(FEE), [])
    later = rate(plan(FEE), [], of=LATER)

    assert [line.amount.minor for line in opening.lines] == [4901]
    assert opening.lines[0].quantity == 1
    assert later.lines == ()


def test_the_first_flat_at_zero_usage_follows_the_policy_and_is_charged_once():
    charging = plan(OUTPUT, policy=ZeroUsageFirstFlat.CHARGE)

    assert rate(plan(OUTPUT), []).lines == ()
    assert rate(charging, []).lines[0].exact == 1
    assert rate(charging, []).lines[0].by_model == ((None, Decimal(1)),)
    first_units = rate(charging, [used("tokens.output", 1000, "small")], of=LATER)
    assert first_units.lines[0].exact == 2


def test_confirmed_outcomes_are_counted():
    (line,) = rate(plan(SOLVED), [used("outcome.solved", 3)]).lines

    assert (line.unit, line.exact, line.key) == ("outcomes", Decimal("2.97"), "solved")


def test_free_usage_is_shown_with_its_quantity():
    (line,) = rate(plan(INPUT), [used("tokens.input", 10)]).lines

    assert (line.quantity, line.exact, line.amount.minor) == (10, 0, 0)


def test_R5_usage_without_a_price_is_unrated_not_free():
    rating = rate(plan(OUTPUT), [used("tokens.output", 5, "other"), used("tokens.output", 7)])

    assert rating.lines == ()
    assert [(u.meter, u.model, u.quantity) for u in rating.unrated] == [
        ("tokens.output", None, 7),
        ("tokens.output", "other", 5),
    ]


def test_zero_of_an_unpriced_meter_blocks_nothing():
    assert rate(plan(FEE), [used("requests", 0)]).unrated == ()


def test_usage_before_an_opening_slice_is_a_mistake_of_the_caller():
    with pytest.raises(InvalidInput) as refused:
        rate(plan(INPUT), [used("tokens.input", 1, before=1)])

    assert refused.value.field == "before"


@pytest.mark.parametrize(
    ("quantity", "error"),
    [
        ("NaN", InvalidInput),
        ("Infinity", InvalidInput),
        ("0.0000000000000000001", InvalidInput),
        ("1000000000000000001", AmountOutOfRange),
    ],
)
def test_quantities_that_cannot_be_rated_are_refused(quantity, error):
    with pytest.raises(error) as refused:
        used("requests", quantity)

    assert refused.value.field == "quantity"


def test_many_models_together_stay_within_the_range_of_one_charge():
    half = 6 * 10**17

    with pytest.raises(AmountOutOfRange):
        rate(plan(OUTPUT), [used("tokens.output", half, m) for m in ("small", "large")])


def test_the_decimal_context_of_the_caller_does_not_matter():
    """The default context has 28 digits; this product has more."""
    price = Decimal("123456789.123456789123456789")
    wide = per_unit(
        key="wide", description="Wide", selector=Selector(meter="requests"), price=price
    )

    (line,) = rate(plan(wide), [used("requests", "99999999.999999")]).lines

    assert line.exact == Decimal("12345678912345555.455556555443210876543211")
