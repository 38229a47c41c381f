"""Every price model with every adjustment, whole and in slices, against an independent oracle."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.adjustment import Adjustments, Commitment, Coupon, SpendCommitment
from billing.catalog.charge import Charge
from billing.catalog.price import (
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Rounding,
    Span,
    Volume,
)
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.metering.aggregation import Point
from billing.money import currency
from billing.period import Period
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.rating.oracle_of_models import Use, total_minor
from tests.strategies import PATIENT, decimals

HOURS = 4
START = datetime(2026, 11, 1, tzinfo=UTC)
COVERED = Period(start=START, end=START + timedelta(hours=HOURS))
ZERO = Decimal(0)
prices = decimals(limit=100, places=12)
some = decimals(limit=1000, places=3)
above_zero = some.filter(lambda number: number > 0)
maybe = st.none() | some
uses = st.lists(
    st.builds(
        Use,
        hour=st.integers(0, HOURS - 1),
        region=st.sampled_from(["eu", "us"]),
        quantity=some.map(Fraction),
    ),
    max_size=8,
)


@st.composite
def tiers(draw: st.DrawFn) -> tuple[Tier, ...]:
    bounds = sorted(draw(st.sets(above_zero, max_size=3)))
    found = []
    for bound in [*bounds, None]:
        least = draw(st.just(ZERO) | prices)
        found.append(
            Tier(
                up_to=bound,
                unit=draw(prices),
                flat=draw(prices),
                package=draw(st.none() | above_zero),
                cap=draw(st.none() | prices.map(lambda more, least=least: least + more)),
                minimum=least,
            )
        )
    return tuple(found)


percentages = st.builds(
    Percentage,
    percent=decimals(limit=100, places=6),
    fixed=prices,
    free_transactions=st.none() | st.integers(0, 5),
    free_value=maybe,
    minimum=decimals(limit=5, places=2),
    maximum=st.none() | prices.map(lambda more: more + 5),
)
models = st.one_of(
    st.builds(PerUnit, price=prices),
    st.builds(Graduated, tiers=tiers()),
    st.builds(Volume, tiers=tiers()),
    st.builds(Package, size=above_zero, price=prices, rounding=st.sampled_from(Rounding)),
    st.builds(
        Reserved,
        committed=above_zero,
        window=st.just(Span.HOUR),
        price=prices.map(lambda price: price + 1),
        overage=prices,
        shortfall=decimals(limit=1, places=3),
    ),
    percentages,
)


@st.composite
def charges(draw: st.DrawFn) -> Charge:
    price = draw(models)
    hourly = draw(st.booleans()) and not isinstance(price, Reserved)
    promised = st.builds(
        Commitment,
        amount=prices,
        window=st.just(Span.HOUR if hourly else Span.PERIOD),
        overage_factor=decimals(limit=3, places=2).map(lambda more: more + 1),
        true_up=st.booleans(),
    )
    least = draw(st.just(ZERO) | prices)
    bent = Adjustments(
        discount_percent=draw(st.just(ZERO) | decimals(limit=100, places=3)),
        maximum=draw(st.none() | prices.map(lambda more: least + more)),
        minimum=least,
        commitment=draw(st.none() | promised),
    )
    windowed = isinstance(price, Reserved) or (bent.commitment is not None and hourly)
    plain = isinstance(price, Percentage)
    rounds = draw(st.none() | st.sampled_from(Rounding)) if isinstance(price, PerUnit) else None
    return Charge(
        key="drawn",
        description="Drawn",
        selector=Selector(meter="requests"),
        price=price,
        per=1 if plain else draw(st.sampled_from([1, 10, 1000])),
        round_units=rounds,
        included=ZERO if plain or isinstance(price, Reserved) or rounds else draw(some),
        split_by=() if windowed else draw(st.sampled_from([(), ("region",)])),
        restart=Span.PERIOD if windowed else draw(st.sampled_from([Span.PERIOD, Span.HOUR])),
        adjustments=bent,
    )


@st.composite
def plans(draw: st.DrawFn) -> PricePlan:
    factor = decimals(limit=3, places=2).map(lambda more: more + 1)
    coupons = [
        st.builds(
            Coupon,
            key=st.just("coupon"),
            description=st.just("Coupon"),
            **{member: decimals(limit=50, places=2).filter(lambda number: number > 0)},
        )
        for member in ("percent_off", "amount_off")
    ]
    promised = st.builds(
        SpendCommitment,
        key=st.just("promised"),
        description=st.just("Promised"),
        amount=prices,
        overage_factor=factor,
    )
    return PricePlan(
        slug="drawn",
        name="Drawn",
        currency=currency("USD"),
        charges=(draw(charges()),),
        commitments=tuple(draw(st.lists(promised, max_size=1))),
        coupons=tuple(draw(st.lists(st.one_of(*coupons), max_size=1))),
    )


def metered(done: list[Use], now: list[Use]) -> list[MeteredQuantity]:
    """Usage as it is handed in: by quarter hour and dimension, with what came before."""
    places: dict[tuple[int, str], tuple[list[Point], list[Point]]] = defaultdict(lambda: ([], []))
    for number, use in enumerate([*done, *now]):
        at = START + timedelta(hours=use.hour)
        value = Decimal(use.quantity.numerator) / Decimal(use.quantity.denominator)
        point = Point(occurred_at=at, epoch=1, event_id=UUID(int=number), value=value)
        places[use.hour, use.region][number >= len(done)].append(point)
    return [
        MeteredQuantity(
            meter="requests",
            dimensions=(("region", region),),
            at=START + timedelta(hours=hour),
            quantity=sum((point.value for point in later), ZERO),
            before=sum((point.value for point in earlier), ZERO),
            transactions=tuple(later),
            transactions_before=tuple(earlier),
        )
        for (hour, region), (earlier, later) in places.items()
    ]


def minor(plan: PricePlan, usage: list[MeteredQuantity], of: Slice) -> int:
    return sum(line.amount.minor for line in rate(plan, usage, of=of).lines)


@PATIENT
@given(plans(), uses)
def test_amounts_of_every_model_equal_the_oracle(plan, drawn):
    total = minor(plan, metered([], drawn), Slice(covered=COVERED))

    assert total == total_minor(plan, drawn, hours=HOURS)


@PATIENT
@given(plans(), uses, uses)
def test_R2_two_slices_of_every_model_cost_the_whole(plan, first, second):
    """Commitments and coupons over charges are the invoice's, and are not of a slice."""
    plan = PricePlan(slug=plan.slug, name=plan.name, currency=plan.currency, charges=plan.charges)
    opening = Slice(covered=COVERED, closes_period=False)
    closing = Slice(covered=COVERED, opens_period=False)

    slices = minor(plan, metered([], first), opening) + minor(plan, metered(first, second), closing)

    assert slices == total_minor(plan, [*first, *second], hours=HOURS)


def test_a_window_whose_usage_was_free_owes_its_promise():
    """Four windows, one of them with usage within what is included: none kept the promise."""
    charge = Charge(
        key="k",
        description="K",
        selector=Selector(meter="requests"),
        price=PerUnit(price=Decimal(1)),
        included=Decimal(5),
        adjustments=Adjustments(commitment=Commitment(amount=Decimal(2), window=Span.HOUR)),
    )
    plan = PricePlan(slug="p", name="P", currency=currency("USD"), charges=(charge,))
    used = [Use(hour=0, region="eu", quantity=Fraction(3))]

    assert minor(plan, metered([], used), Slice(covered=COVERED)) == 800


@pytest.mark.parametrize(
    ("terms", "field"),
    [({"split_by": ("region",)}, "split_by"), ({"restart": Span.DAY}, "restart")],
)
def test_a_promise_per_window_is_of_the_whole_charge(terms, field):
    """Else each part would be counted as a window of its own, and windows would be lost."""
    bent = Adjustments(commitment=Commitment(amount=Decimal(2), window=Span.HOUR))
    with pytest.raises(InvalidPlan) as refused:
        Charge(
            key="k",
            description="K",
            selector=Selector(meter="requests"),
            price=PerUnit(price=Decimal(1)),
            adjustments=bent,
            **terms,
        )
    assert refused.value.field == field
