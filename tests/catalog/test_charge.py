"""Which charges are well formed, and which would price one quantity twice."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.charge import Charge, find_overlaps
from billing.catalog.price_list import expand_price_list
from billing.catalog.price_plan import PricePlan, prices_model
from billing.catalog.selector import Selector, is_built_in
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.metering.token_class import TokenClass
from billing.money import currency
from tests.charges import flat_fee, graduated, outcome_price, per_unit
from tests.strategies import METERS, MODELS, PATIENT

ONE = Decimal(1)
OPEN = Tier(up_to=None, unit=ONE)


def a_price(meter="requests", models=None, key="key", **terms) -> Charge:
    chosen = None if models is None else frozenset(models)
    selector = Selector(meter=meter, models=chosen)
    return per_unit(key=key, description="Text", selector=selector, **{"price": ONE, **terms})


def in_tiers(*tiers) -> Charge:
    selector = Selector(meter="requests")
    return graduated(key="key", description="Text", selector=selector, tiers=tiers)


def bounded(up_to) -> Tier:
    return Tier(up_to=Decimal(up_to), unit=ONE)


def plan(*charges, **terms) -> PricePlan:
    return PricePlan(
        **{"slug": "plan", "name": "Plan", "currency": currency("USD"), "charges": charges, **terms}
    )


REFUSED = {
    "negative price": (lambda: a_price(price=-ONE), "price"),
    "price that is no number": (lambda: a_price(price=Decimal("NaN")), "price"),
    "19 decimals": (lambda: a_price(price=Decimal("1E-19")), "price"),
    "price too large": (lambda: a_price(price=Decimal(10) ** 19), "price"),
    "negative allowance": (lambda: a_price(included=-ONE), "included"),
    "per 0": (lambda: a_price(per=0), "per"),
    "per 1001": (lambda: a_price(per=1001), "per"),
    "per 60": (lambda: a_price(per=60), "per"),
    "per 10^13": (lambda: a_price(per=10**13), "per"),
    "no description": (
        lambda: flat_fee(key="key", description=" ", amount=ONE),
        "description",
    ),
    "line break in a description": (
        lambda: flat_fee(key="key", description="a\nb", amount=ONE),
        "description",
    ),
    "key of the residual line": (
        lambda: flat_fee(key="residual", description="Text", amount=ONE),
        "key",
    ),
    "key with a space": (lambda: flat_fee(key="a b", description="Text", amount=ONE), "key"),
    "key with a line break": (lambda: flat_fee(key="a\n", description="Text", amount=ONE), "key"),
    "empty set of models": (lambda: a_price(models=[]), "models"),
    "model with a space": (lambda: a_price(models=["a b"]), "models"),
    "malformed meter": (lambda: a_price(meter="Tokens Input"), "meter"),
    "capital in an outcome": (
        lambda: outcome_price(key="key", description="Text", outcome="Solved", price=ONE),
        "meter",
    ),
    "no tiers": (in_tiers, "tiers"),
    "too many tiers": (
        lambda: in_tiers(*[bounded(number) for number in range(1, 101)], OPEN),
        "tiers",
    ),
    "bounded last tier": (lambda: in_tiers(bounded(5)), "tiers[0].up_to"),
    "open tier in the middle": (lambda: in_tiers(OPEN, bounded(5), OPEN), "tiers[0].up_to"),
    "equal bounds": (lambda: in_tiers(bounded(5), bounded(5), OPEN), "tiers[1].up_to"),
    "falling bounds": (lambda: in_tiers(bounded(5), bounded(4), OPEN), "tiers[1].up_to"),
    "bound at zero": (lambda: in_tiers(bounded(0), OPEN), "tiers[0].up_to"),
    "negative flat": (lambda: Tier(up_to=None, unit=ONE, flat=-ONE), "flat"),
    "no charges": (plan, "charges"),
    "too many charges": (
        lambda: plan(*[a_price(models=[f"m{n}"], key=f"k{n}") for n in range(1001)]),
        "charges",
    ),
    "one key twice": (
        lambda: plan(a_price(), a_price(meter="tokens.input")),
        "charges[1].key",
    ),
    "one quantity priced twice": (
        lambda: plan(a_price(), a_price(models=["sim"], key="other")),
        "charges[1]",
    ),
    "payment terms": (lambda: plan(a_price(), payment_terms_days=-1), "payment_terms_days"),
    "slug": (lambda: plan(a_price(), slug="Plan A"), "slug"),
    "name": (lambda: plan(a_price(), name=""), "name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, field = REFUSED[case]

    with pytest.raises(InvalidPlan) as refused:
        build()

    assert refused.value.field == field


@pytest.mark.parametrize("per", [1, 10, 1000, 10**6, 10**12])
def test_powers_of_ten_are_unit_conversions(per):
    assert a_price(per=per).per == per


def test_R7_overlaps_name_the_pair_the_meter_and_the_models():
    charges = [
        a_price(models=["a", "b"], key="one"),
        flat_fee(key="fee", description="Fee", amount=ONE),
        a_price(models=["b", "c"], key="two"),
        a_price(key="any"),
        a_price(meter="outcome.solved", key="solved-by-meter"),
        outcome_price(key="solved", description="Solved", outcome="solved", price=ONE),
    ]

    found = {(o.first, o.second): (o.meter, o.models) for o in find_overlaps(charges)}

    assert found == {
        (0, 2): ("requests", frozenset({"b"})),
        (0, 3): ("requests", frozenset({"a", "b"})),
        (2, 3): ("requests", frozenset({"b", "c"})),
        (4, 5): ("outcome.solved", None),
    }


selectors = st.builds(
    Selector,
    meter=st.sampled_from(METERS),
    models=st.none() | st.frozensets(st.sampled_from(MODELS), min_size=1),
)


@PATIENT
@given(st.lists(selectors, max_size=6))
def test_R7_without_an_overlap_every_quantity_has_at_most_one_charge(drawn):
    charges = [
        per_unit(key=f"k{n}", description="Text", selector=selector, price=ONE)
        for n, selector in enumerate(drawn)
    ]
    most = max(
        sum(selector.selects(meter, model) for selector in drawn)
        for meter in METERS
        for model in (None, "a model that no charge names", *MODELS)
    )

    assert bool(find_overlaps(charges)) == (most > 1)


def test_prices_model_is_what_the_plan_sells_of_it():
    sold = plan(
        *expand_price_list(
            {"a": {TokenClass.INPUT: ONE, TokenClass.OUTPUT: ONE}, "b": {TokenClass.INPUT: ONE}},
            per=10**6,
        ),
        a_price(meter="tokens.cached_input", key="cached"),
        a_price(key="requests"),
    )

    assert prices_model(sold, "a") == {
        TokenClass.INPUT,
        TokenClass.OUTPUT,
        TokenClass.CACHED_INPUT,
    }
    assert prices_model(sold, "b") == {TokenClass.INPUT, TokenClass.CACHED_INPUT}
    assert prices_model(sold, "unheard-of") == {TokenClass.CACHED_INPUT}


def test_a_price_list_stands_for_one_charge_per_model_and_class():
    (charge,) = expand_price_list({"org/m-8b": {TokenClass.CACHE_WRITE: ONE}}, per=1000)

    assert charge == per_unit(
        key="tokens/org/m-8b/cache_write",
        description="org/m-8b: cache write tokens",
        selector=Selector(meter="tokens.cache_write", models=frozenset({"org/m-8b"})),
        price=ONE,
        per=1000,
    )


def test_a_price_list_refuses_a_malformed_model():
    with pytest.raises(InvalidPlan) as refused:
        expand_price_list({"a b": {TokenClass.INPUT: ONE}}, per=1)

    assert refused.value.field == "model"


@pytest.mark.parametrize(
    ("meter", "built_in"),
    [
        ("tokens.input", True),
        ("tokens.cached_input", True),
        ("tokens.reasoning", False),
        ("requests", True),
        ("images", True),
        ("audio.seconds", True),
        ("speech.characters", True),
        ("rerank.searches", True),
        ("audio.minutes", False),
        ("outcome.ticket-resolved", True),
        ("outcome.", False),
        ("outcome.Ticket", False),
        ("gpu.hours", False),
    ],
)
def test_built_in_meters(meter, built_in):
    assert is_built_in(meter) is built_in
