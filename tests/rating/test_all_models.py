"""Every price model with every adjustment and policy, against an independent oracle.

Whole periods and slices of them, quantities to 10^18, prices with 12 decimals, usage that was
taken back, windows, parts of a period, several charges with commitments and coupons over them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from billing.catalog.adjustment import Adjustments, Commitment, Coupon, SpendCommitment
from billing.catalog.charge import Charge
from billing.catalog.price import Graduated, Package, Percentage, PerUnit, Reserved, Span, Volume
from billing.catalog.price_plan import PricePlan
from billing.catalog.rates import highest_price
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.errors import InvalidPlan
from billing.money import EXACT, currency
from billing.planfiles.plan_dump import dump
from billing.planfiles.plan_file import load_document
from billing.rating.line import LineKind, RatedLine
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee, per_unit
from tests.rating.drawn import (
    COVERED,
    ROUNDS,
    SMALL,
    WHOLE,
    ZERO,
    Case,
    cases,
    has_transactions,
    metered,
    models,
    sizes,
    tiers,
)
from tests.rating.oracle_of_models import Use, total_minor

EXACT_KINDS = {LineKind.CHARGE, LineKind.SHORTFALL}


def usage_of(case: Case, *, done: bool = False) -> list[MeteredQuantity]:
    """The usage of both slices together, or of the second behind the first."""
    first, second = (case.first, case.second) if done else ([], [*case.first, *case.second])
    return metered(first, second, single=has_transactions(case.plan))


def opening(case: Case) -> list[RatedLine]:
    """Lines of the first slice, while the period is open."""
    usage = metered([], case.first, single=has_transactions(case.plan))
    part = Slice(covered=COVERED, share=case.share, closes_period=False)
    return list(rate(case.plan, usage, of=part).lines)


def whole(case: Case) -> Slice:
    return Slice(covered=COVERED, share=case.share)


def minor(plan: PricePlan, usage: list[MeteredQuantity], of: Slice) -> int:
    return sum(line.amount.minor for line in rate(plan, usage, of=of).lines)


@ROUNDS
@given(cases())
def test_R1_lines_are_whole_minor_units_and_come_to_what_the_oracle_says(case):
    lines = rate(case.plan, usage_of(case), of=whole(case)).lines

    assert sum(line.amount.minor for line in lines) == total_minor(
        case.plan, case.all_uses, case.time
    )
    for line in lines:
        # What is not billed of a charge is less than what half a minor unit is worth.
        off = abs(Fraction(line.exact) * 100 - line.amount.minor)
        assert off <= Fraction(1, 2) if line.kind in EXACT_KINDS else off == 0
    assert len({line.key for line in lines}) == len(lines)


@ROUNDS
@given(cases())
def test_R2_two_slices_cost_the_whole(case):
    """Commitments and coupons over several charges too: they are of the period, not of a slice."""
    closing = replace(whole(case), opens_period=False)

    slices = [*opening(case), *rate(case.plan, usage_of(case, done=True), of=closing).lines]

    found: dict[str, int] = defaultdict(int)
    for line in slices:
        found[line.key] += line.amount.minor
    at_once = rate(case.plan, usage_of(case), of=whole(case)).lines
    expected = {line.key: line.amount.minor for line in at_once if line.amount.minor}
    assert {key: amount for key, amount in found.items() if amount} == expected


@ROUNDS
@given(cases(signed=False))
def test_R3_more_usage_never_costs_less_of_any_model_but_volume(case):
    """A shortfall that is given back shrinks with usage; volume tiers may fall at a bound."""
    # A later use may be free where an earlier one would have cost, so more of it comes last.
    falling = (Volume, Percentage)
    assume(not any(isinstance(charge.price, falling) for charge in case.plan.charges))
    # Two lines that are rounded each may come to a minor unit more than their sum; see
    # `test_window_shortfall.py` for what they come to exactly.
    assume(not any(map(has_shortfall, case.plan.charges)))
    # See the next test.
    assume(not case.plan.commitments or all(each.charges is None for each in case.plan.coupons))

    fewer = minor(case.plan, metered([], case.first, single=False), whole(case))

    assert fewer <= minor(case.plan, usage_of(case), whole(case))


def has_shortfall(charge: Charge) -> bool:
    promised = charge.adjustments.commitment
    by_hour = promised is not None and promised.window is Span.HOUR and promised.true_up
    return by_hour or isinstance(charge.price, Reserved)


def test_R3_what_fills_a_commitment_is_cheaper_with_a_coupon_on_it():
    """A commitment counts what is used before coupons; one on all charges is off the rest, too."""
    selector = Selector(meter="requests", models=None)
    charge = per_unit(key="charge", description="Used", selector=selector, price=Decimal(1))
    promised = SpendCommitment(key="promised", description="Promised", amount=Decimal(100))
    for charges, expected in ((frozenset({"charge"}), 98_00), (None, 95_00)):
        coupon = Coupon(key="coupon", description="Coupon", charges=charges, percent_off=Decimal(5))
        plan = PricePlan(
            slug="filled",
            version=None,
            name="Filled",
            currency=currency("USD"),
            charges=(charge,),
            commitments=(promised,),
            coupons=(coupon,),
        )
        used = [MeteredQuantity(meter="requests", model=None, quantity=Decimal(40))]
        assert minor(plan, used, WHOLE) == expected
        assert minor(plan, [], WHOLE) == (95_00 if charges is None else 100_00)


@ROUNDS
@given(sizes.flatmap(tiers), st.sampled_from([1, 10, 1000]), st.data())
def test_R3_volume_jumps_at_a_bound_by_exactly_the_difference_of_its_tiers(drawn, per, data):
    """At the bound all units have the lower tier's price, a step beyond it the upper one's."""
    plain = tuple(Tier(up_to=tier.up_to, unit=tier.unit, flat=tier.flat) for tier in drawn)
    assume(len(plain) > 1)
    bound, (lower, upper) = plain[0].up_to, plain[:2]
    assert bound is not None
    step = data.draw(SMALL.above_zero)
    above = min(bound + step, upper.up_to or bound + step)
    at, beyond = (priced(Volume(tiers=plain), quantity, per) for quantity in (bound, above))

    jump = (Fraction(above) * Fraction(upper.unit) - Fraction(bound) * Fraction(lower.unit)) / per
    assert beyond - at == jump + Fraction(upper.flat) - Fraction(lower.flat)


@ROUNDS
@given(cases())
def test_R4_a_slice_without_usage_changes_nothing(case):
    """Rating again what was rated finds no line, whatever was taken back."""
    again = replace(case, second=[])
    part = Slice(covered=COVERED, share=case.share, opens_period=False, closes_period=False)

    assert rate(case.plan, usage_of(again, done=True), of=part).lines == ()


@ROUNDS
@given(cases(), st.data())
def test_R5_R7_a_quantity_is_on_one_line_or_unrated(case, data):
    """With a charge taken out of the plan, what it priced is unrated, and no line takes it."""
    gone = data.draw(st.sampled_from(case.plan.charges))
    rest = tuple(charge for charge in case.plan.charges if charge is not gone)
    assume(rest)
    plan = replace(case.plan, charges=rest, commitments=(), coupons=())
    usage = usage_of(case)

    rating = rate(plan, usage, of=whole(case))

    def counted(meter: str) -> Fraction:
        found = [line.quantity for line in rating.lines if line.meter == meter]
        found += [row.quantity for row in rating.unrated if row.meter == meter]
        return sum(map(Fraction, found), Fraction(0))

    for meter in ("requests", "searches"):
        places = [used for used in usage if used.meter == meter]
        taken_back = sum(
            Fraction(used.quantity) for used in below_zero(plan, places, rating.unrated)
        )
        assert counted(meter) == sum(Fraction(used.quantity) for used in places) - taken_back


def below_zero(plan, places, unrated) -> list[MeteredQuantity]:
    """Places without a price that gave back at least what they used: they are no queue."""
    listed = {(row.meter, row.dimensions) for row in unrated}
    return [
        used
        for used in places
        if (used.meter, used.dimensions) not in listed and not has_price(plan, used)
    ]


def has_price(plan: PricePlan, used: MeteredQuantity) -> bool:
    values = dict(used.dimensions)
    return any(
        charge.selector.selects(used.meter, used.model, values, used.at, WHOLE.zone)
        for charge in plan.charges
        if charge.selector
    )


@ROUNDS
@given(cases(), st.randoms(use_true_random=False))
def test_R6_order_storage_and_context_change_nothing(case, random):
    """The order of usage, the stored form of the plan, and the caller's arithmetic."""
    usage = usage_of(case)
    shuffled = random.sample(usage, len(usage))
    expected = rate(case.plan, usage, of=whole(case))
    with localcontext() as context:
        context.prec = 3
        found = rate(load_document(dump(case.plan)), shuffled, of=whole(case))

    assert found == expected


@ROUNDS
@given(cases())
def test_explanations_of_every_model_can_be_redone_by_hand(case):
    product = re.compile(r"(-?[\d.]+) x (-?[\d.]+) = (-?[\d.]+)")
    with localcontext(EXACT):
        for line in rate(case.plan, usage_of(case), of=whole(case)).lines:
            addends = [note.amount for note in line.explanation if note.amount is not None]
            assert sum(addends, ZERO) == line.exact
            for note in line.explanation:
                for left, right, result in product.findall(note.text.replace(",", "")):
                    assert Decimal(left) * Decimal(right) == Decimal(result)


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


@ROUNDS
@given(models(SMALL), SMALL.above_zero, st.sampled_from([1, 10]))
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


def test_a_charge_counts_towards_one_commitment():
    """Else one payment would keep two promises (C2)."""
    both = (
        SpendCommitment(key="a", description="A", amount=Decimal(1)),
        SpendCommitment(key="b", description="B", amount=Decimal(1), charges=frozenset({"fee"})),
    )
    with pytest.raises(InvalidPlan) as refused:
        PricePlan(
            slug="p",
            name="P",
            currency=currency("USD"),
            charges=(flat_fee(key="fee", description="Fee", amount=Decimal(1)),),
            commitments=both,
        )
    assert refused.value.field == "commitments[1].charges"


def test_a_commitment_of_nothing_does_not_lift_what_is_below_zero():
    """Usage that was taken back may leave less than nothing."""
    requests = per_unit(
        key="requests",
        description="R",
        selector=Selector(meter="requests"),
        price=Decimal(1),
    )
    plan = PricePlan(
        slug="p",
        name="P",
        currency=currency("USD"),
        charges=(requests,),
        commitments=(SpendCommitment(key="c", description="C", amount=ZERO),),
    )
    back = MeteredQuantity(meter="requests", quantity=Decimal(0), before=Decimal(5))
    (line,) = rate(plan, [replace(back, quantity=Decimal(-3))], of=Slice(opens_period=False)).lines
    assert line.amount.minor == -300


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

    assert minor(plan, metered([], used), WHOLE) == 800


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
