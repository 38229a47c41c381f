"""Rates bound what a request can cost, whatever was used before it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.amounts import ATTO
from billing.catalog.adjustment import SpendCommitment
from billing.catalog.charge import Charge
from billing.catalog.price import Graduated, Percentage
from billing.catalog.price_plan import PricePlan
from billing.catalog.rates import proxy_rates, rates_of
from billing.catalog.selector import Condition, Selector
from billing.catalog.tier import Tier
from billing.metering.unit_meter import UnitMeter
from billing.money import currency
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee, graduated, outcome_price, per_unit
from tests.strategies import PATIENT, decimals, usage_charges

OUTPUT = Selector(meter="tokens.output", models=frozenset({"small"}))
LATER = Slice(opens_period=False)


def plan_of(*charges: Charge) -> PricePlan:
    return PricePlan(slug="p", name="P", currency=currency("USD"), charges=charges)


def without_flat(charge: Charge) -> Charge:
    if isinstance(charge.price, Graduated):
        tiers = tuple(replace(tier, flat=Decimal(0)) for tier in charge.price.tiers)
        return replace(charge, price=Graduated(tiers=tiers))
    return charge


def a_price(meter: str, price: str, per: int = 1, models: tuple[str, ...] = ("small",)) -> Charge:
    selector = Selector(meter=meter, models=frozenset(models))
    return per_unit(key=meter, description=meter, selector=selector, price=Decimal(price), per=per)


@PATIENT
@given(
    usage_charges(OUTPUT, "drawn").map(without_flat),
    st.integers(1, 10**6),
    decimals(limit=10**9, places=3),
)
def test_rates_are_the_highest_tier(charge, quantity, before):
    """No request costs more than its rate, wherever in the period's tiers it falls."""
    plan = plan_of(charge)
    used = MeteredQuantity(
        meter="tokens.output", model="small", quantity=Decimal(quantity), before=before
    )
    cost = sum(Fraction(line.exact) for line in rate(plan, [used], of=LATER).lines)
    prices = rates_of([plan], "small")
    assert Fraction(prices["tokens.output"]) * quantity >= cost
    assert Fraction(proxy_rates(prices).output * quantity, ATTO) >= cost


def test_the_highest_of_all_tiers_is_taken_even_where_it_is_not_the_first():
    tiers = (
        Tier(up_to=Decimal(10), unit=Decimal(2)),
        Tier(up_to=Decimal(20), unit=Decimal(5)),
        Tier(up_to=None, unit=Decimal(1), flat=Decimal(100)),
    )
    charge = graduated(key="g", description="G", selector=OUTPUT, tiers=tiers, per=10)
    assert rates_of([plan_of(charge)], "small") == {"tokens.output": Decimal("0.5")}


def test_only_charges_of_the_model_count():
    plan = plan_of(
        flat_fee(key="fee", description="Fee", amount=Decimal(20)),
        a_price("tokens.output", "3", per=1_000_000),
        replace(a_price("tokens.output", "9", models=("large",)), key="large"),
        per_unit(
            key="all",
            description="Requests",
            selector=Selector(meter="requests"),
            price=Decimal("0.01"),
        ),
        outcome_price(key="o", description="Solved", outcome="solved", price=Decimal(1)),
    )
    assert rates_of([plan], "small") == {
        "tokens.output": Decimal("0.000003"),
        "requests": Decimal("0.01"),
        "outcome.solved": Decimal(1),
    }
    assert "tokens.output" not in rates_of([plan], "unknown")


def test_the_highest_over_several_contracts_is_taken():
    cheap = plan_of(a_price("tokens.input", "1"))
    dear = plan_of(a_price("tokens.input", "2"), a_price("tokens.output", "7"))
    for plans in ([cheap, dear], [dear, cheap]):
        assert rates_of(plans, "small") == {
            "tokens.input": Decimal(2),
            "tokens.output": Decimal(7),
        }


@pytest.mark.parametrize("dear", range(3))
def test_the_highest_of_all_bands_and_tiers_is_taken(dear: int):
    """A client chooses how long its prompt is, and which tier it asks for."""
    bands = [
        (Condition(dimension="context", values=frozenset({"below-272000"})),),
        (Condition(dimension="context", values=frozenset({"from-272000"})),),
        (Condition(dimension="service_tier", values=frozenset({"flex"}), others=True),),
    ]
    charges = [
        per_unit(
            key=f"band-{number}",
            description="Output",
            selector=replace(OUTPUT, where=where),
            price=Decimal(9 if number == dear else 4),
        )
        for number, where in enumerate(bands)
    ]
    plans = [plan_of(*charges[:2]), plan_of(charges[2])]
    assert rates_of(plans, "small") == {"tokens.output": Decimal(9)}


def test_included_usage_does_not_lower_a_rate():
    free = replace(a_price("tokens.input", "2"), included=Decimal(10**9))
    assert rates_of([plan_of(free)], "small") == {"tokens.input": Decimal(2)}


@pytest.mark.parametrize(
    ("meter", "price", "per", "expected"),
    [
        ("tokens.input", "0.20", 1_000_000, 200_000_000_000),
        ("tokens.input", "0.000000000000000001", 10, 1),  # a tenth of the smallest: rounded up
        ("tokens.output", "0", 1, 0),
        ("tokens.cached_input", "1000000000000000000", 1, 10**36),
    ],
)
def test_prices_become_whole_numbers_rounded_up(meter, price, per, expected):
    rates = proxy_rates(rates_of([plan_of(a_price(meter, price, per=per))], "small"))
    assert getattr(rates, meter.removeprefix("tokens.")) == expected


def test_audio_is_priced_by_the_second_and_counted_in_milliseconds():
    plan = plan_of(a_price("audio.seconds", "0.0001"), a_price("images", "0.04"))
    rates = proxy_rates(rates_of([plan], "small"))
    assert rates.units == {UnitMeter.AUDIO_MS: 10**11, UnitMeter.IMAGES: 4 * 10**16}


def test_a_price_per_request_is_a_rate_too():
    plan = plan_of(a_price("requests", "0.002"))
    assert proxy_rates(rates_of([plan], "small")).request == 2 * 10**15


@pytest.mark.parametrize(
    ("counts", "expected"), [(None, "0.5"), (["key"], "0.5"), (["fee"], "0.2")]
)
def test_usage_beyond_a_commitment_of_the_plan_is_held_at_its_factor(counts, expected):
    """Both charges count towards it where it names none."""
    promised = SpendCommitment(
        key="promised",
        description="Promised",
        amount=Decimal(10),
        charges=None if counts is None else frozenset(counts),
        overage_factor=Decimal("2.5"),
    )
    plan = replace(
        plan_of(
            flat_fee(key="fee", description="Fee", amount=Decimal(1)),
            replace(a_price("tokens.output", "0.2"), key="key"),
        ),
        commitments=(promised,),
    )
    assert rates_of([plan], "small") == {"tokens.output": Decimal(expected)}


def test_a_transaction_is_held_at_all_that_it_can_cost():
    price = Percentage(percent=Decimal(3), fixed=Decimal("0.30"), minimum=Decimal("0.25"))
    charge = Charge(key="k", description="K", selector=OUTPUT, price=price)
    assert rates_of([plan_of(charge)], "small") == {"tokens.output": Decimal("0.33")}
