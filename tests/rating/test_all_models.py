"""Every price model with every adjustment, whole and in slices, against an independent oracle."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import assume, given
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
from billing.catalog.rates import highest_price
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.metering.aggregation import Point
from billing.money import EXACT, currency
from billing.period import Period
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.rating.oracle_of_models import Use, total_minor
from tests.strategies import PATIENT, decimals

HOURS = 4
START = datetime(2026, 11, 1, tzinfo=UTC)
COVERED = Period(start=START, end=START + timedelta(hours=HOURS))
WHOLE = Slice(covered=COVERED)
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


def charge_for(price, per: int) -> Charge:
    return Charge(
        key="k", description="K", selector=Selector(meter="requests"), price=price, per=per
    )


def priced(price, quantity: Decimal, per: int) -> Fraction:
    """What one use of a price costs, exactly."""
    plan = PricePlan(
        slug="p", name="P", currency=currency("USD"), charges=(charge_for(price, per),)
    )
    used = [Use(hour=0, region="eu", quantity=Fraction(quantity))] if quantity else []
    lines = rate(plan, metered([], used), of=WHOLE).lines
    return sum((Fraction(line.exact) for line in lines), Fraction(0))


def begun(price) -> Fraction:
    """What is due once, and not for a unit."""
    if isinstance(price, Package):
        return Fraction(price.price)
    if isinstance(price, Graduated | Volume):
        return sum(
            (Fraction(t.flat) + Fraction(t.minimum) + (Fraction(t.unit) if t.package else 0))
            for t in price.tiers
        ) + Fraction(0)
    return Fraction(0)


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


@PATIENT
@given(plans(), uses, st.randoms(use_true_random=False))
def test_R4_R6_the_order_in_which_usage_is_handed_in_changes_nothing(plan, drawn, random):
    usage = metered([], drawn)
    shuffled = random.sample(usage, len(usage))

    assert rate(plan, shuffled, of=WHOLE) == rate(plan, usage, of=WHOLE)


@PATIENT
@given(plans(), uses, uses)
def test_R3_more_usage_never_costs_less_of_any_model_but_volume(plan, drawn, more):
    """A shortfall that is given back shrinks with usage; volume tiers may fall at a bound."""
    plan = PricePlan(slug=plan.slug, name=plan.name, currency=plan.currency, charges=plan.charges)
    (charge,) = plan.charges
    assume(not isinstance(charge.price, Volume))
    # A later use may be free where an earlier one would have cost, so more of it comes last.
    assume(not isinstance(charge.price, Percentage))

    fewer = minor(plan, metered([], drawn), WHOLE)

    assert fewer <= minor(plan, metered([], [*drawn, *more]), WHOLE)


@PATIENT
@given(tiers(), above_zero, st.sampled_from([1, 10, 1000]))
def test_R3_volume_jumps_at_a_bound_by_exactly_the_difference_of_its_tiers(drawn, step, per):
    """At the bound all units have the lower tier's price, a step beyond it the upper one's."""
    plain = tuple(Tier(up_to=tier.up_to, unit=tier.unit, flat=tier.flat) for tier in drawn)
    assume(len(plain) > 1)
    bound, (lower, upper) = plain[0].up_to, plain[:2]
    assert bound is not None
    above = min(bound + step, upper.up_to or bound + step)
    at, beyond = (priced(Volume(tiers=plain), quantity, per) for quantity in (bound, above))

    jump = (Fraction(above) * Fraction(upper.unit) - Fraction(bound) * Fraction(lower.unit)) / per
    assert beyond - at == jump + Fraction(upper.flat) - Fraction(lower.flat)


@PATIENT
@given(models, above_zero, st.sampled_from([1, 10]))
def test_the_highest_price_bounds_what_a_first_use_costs(price, quantity, per):
    """Fees apart, and the package or window that is begun last."""
    charge = charge_for(price, 1 if isinstance(price, Percentage) else per)
    quantity = max(quantity, Decimal(1))
    # What is reserved is due without usage.
    fixed = begun(price)
    if isinstance(price, Reserved):
        fixed = priced(price, ZERO, charge.per)

    cost = priced(price, quantity, charge.per)

    assert cost <= Fraction(highest_price(charge)) * Fraction(quantity) + fixed


@PATIENT
@given(plans(), uses)
def test_explanations_of_every_model_can_be_redone_by_hand(plan, drawn):
    product = re.compile(r"(-?[\d.]+) x (-?[\d.]+) = (-?[\d.]+)")
    with localcontext(EXACT):
        for line in rate(plan, metered([], drawn), of=WHOLE).lines:
            addends = [note.amount for note in line.explanation if note.amount is not None]
            assert sum(addends, ZERO) == line.exact
            for note in line.explanation:
                for left, right, result in product.findall(note.text.replace(",", "")):
                    assert Decimal(left) * Decimal(right) == Decimal(result)


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
