"""Lines without their arithmetic are the same lines: nobody reads the words of an accrual."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.adjustment import Coupon
from billing.catalog.price_plan import NegativeUsage, PricePlan
from billing.catalog.selector import Selector
from billing.errors import SteelyardError
from billing.money import CURRENCIES
from billing.rating.compiled import compiled
from billing.rating.pipeline import Slice, rate
from billing.rating.plainly import plain_amounts
from billing.rating.proration import WHOLE, DayShare
from billing.rating.quantity import MeteredQuantity
from tests.charges import per_unit
from tests.rating import drawn as bent
from tests.strategies import METERS, MODELS, PATIENT, decimals, plans

used = st.builds(
    MeteredQuantity,
    meter=st.sampled_from(METERS),
    model=st.sampled_from([None, *MODELS]),
    quantity=st.one_of(
        decimals(limit=10**9, places=3),
        decimals(limit=10**18, places=18).map(lambda number: min(number, Decimal(10) ** 18)),
        decimals(limit=10**4, places=1).map(lambda number: -number),
    ),
)
PLAIN = PricePlan(
    slug="plain",
    version=1,
    name="Plain",
    currency=CURRENCIES["USD"],
    charges=(per_unit(key="c", description="C", selector=Selector(meter="m"), price=Decimal(2)),),
)
shares = st.sampled_from([DayShare(days_before=0, days=1, of_days=1)]) | st.builds(
    DayShare, days_before=st.integers(0, 10), days=st.integers(0, 20), of_days=st.just(30)
)


def outcome(plan: PricePlan, quantities, of: Slice, *, explained: bool):
    """Lines without words and with exact amounts as ratios, or the error."""
    try:
        rating = rate(plan, quantities, of=of, explained=explained)
    except SteelyardError as error:
        return error.code, error.field
    assert explained or not any(line.explanation for line in rating.lines)
    lines = [replace(line, explanation=()) for line in rating.lines]
    return lines, [Fraction(line.exact) for line in lines], rating.unrated


@PATIENT
@given(plans(), st.lists(used, max_size=8), shares, st.sampled_from(NegativeUsage))
def test_R6_plain_charges_cost_what_their_steps_say(plan, quantities, share, negative):
    plan = replace(plan, policies=replace(plan.policies, negative_usage=negative))
    assert all(charge.plain is not None for charge in compiled(plan).charges)
    of = Slice(share=share)

    plainly = outcome(plan, quantities, of, explained=False)

    assert plainly == outcome(plan, quantities, of, explained=True)


@bent.ROUNDS
@given(bent.cases())
def test_R6_charges_of_every_kind_cost_the_same_without_words(case):
    of = replace(bent.WHOLE, opens_period=not case.first, share=case.share)
    single = bent.has_transactions(case.plan)
    quantities = bent.metered(case.first, case.second, single=single)

    plainly = outcome(case.plan, quantities, of, explained=False)

    assert plainly == outcome(case.plan, quantities, of, explained=True)


@PATIENT
@given(plans(), st.lists(st.tuples(used, st.booleans()), max_size=8), shares)
def test_R6_amounts_without_lines_are_those_of_the_lines(plan, quantities, share):
    uses = [(each.meter, each.model, each.quantity, free) for each, free in quantities]
    amounts = plain_amounts(compiled(plan), uses, share)
    if amounts is None:
        return
    priced = [each for each, _ in quantities if _charge_of(plan, each) is not None]
    assert all(free for each, free in quantities if each not in priced)
    rating = rate(plan, priced, of=Slice(share=share), explained=False)
    assert not rating.unrated
    assert amounts == {line.key: line.exact for line in rating.lines if line.exact}


def test_amounts_without_lines_are_told_where_nothing_bends_them():
    plan = compiled(PLAIN)
    assert plain_amounts(plan, [("m", None, Decimal(7), False)], WHOLE) == {"c": Decimal(14)}
    for meter, quantity, free in (
        ("m", Decimal(-1), False),
        ("m", Decimal(10) ** 18 + 1, False),
        ("m", Decimal(10) ** 18, False),
        ("m", Decimal("1E-19"), False),
        ("other", Decimal(1), False),
    ):
        assert plain_amounts(plan, [(meter, None, quantity, free)], WHOLE) is None
    assert plain_amounts(plan, [("other", None, Decimal(1), True)], WHOLE) == {}
    less = Coupon(key="less", description="Less", percent_off=Decimal(10))
    cheaper = compiled(replace(PLAIN, coupons=(less,)))
    assert plain_amounts(cheaper, [("m", None, Decimal(7), False)], WHOLE) is None


def _charge_of(plan: PricePlan, each: MeteredQuantity):
    prices = compiled(plan).meters.get(each.meter)
    return None if prices is None else prices.charge_of(each.model, (), None, Slice().zone)
