"""What windows were promised and left unused: a line of its own beside the charge's (C2)."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.catalog.adjustment import Adjustments, Commitment
from billing.catalog.charge import Charge
from billing.catalog.price import PerUnit, Price, Reserved, Span
from billing.catalog.price_plan import PricePlan
from billing.catalog.rates import highest_price
from billing.catalog.selector import Selector
from billing.errors import InvalidPlan
from billing.ledger.account import AccountCode
from billing.ledger.earning import account_of
from billing.money import currency
from billing.rating.line import LineKind, RatedLine
from billing.rating.pipeline import Slice, rate
from billing.rating.quantity import MeteredQuantity
from tests.charges import flat_fee
from tests.rating.drawn import (
    COVERED,
    HOURS,
    ROUNDS,
    SMALL,
    START,
    WHOLE,
    ZERO,
    factors,
)

OPEN = Slice(covered=COVERED, closes_period=False)
HOURLY = Reserved(committed=Decimal(10), window=Span.HOUR, price=Decimal(2), overage=Decimal(5))
_WINDOW = re.compile(r"(?:^|: )([\d,.]+) committed = ([\d,.]+) used \+ ([\d,.]+) unused$")
_TOTAL = re.compile(
    r"([\d,.]+) windows x ([\d,.]+) = ([\d,.]+) committed = ([\d,.]+) used \+ ([\d,.]+) unused$"
)

quantities_by_hour = st.lists(SMALL.quantities, min_size=HOURS, max_size=HOURS)


def reserving(price: Price, **bent) -> PricePlan:
    return PricePlan(
        slug="p",
        name="P",
        currency=currency("USD"),
        charges=(
            Charge(
                key="k",
                description="K",
                selector=Selector(meter="requests"),
                price=price,
                adjustments=Adjustments(**bent),
            ),
        ),
    )


def hourly(*by_hour: Decimal | int) -> list[MeteredQuantity]:
    return [
        MeteredQuantity(
            meter="requests", quantity=Decimal(quantity), at=START + timedelta(hours=hour)
        )
        for hour, quantity in enumerate(by_hour)
    ]


def by_kind(plan: PricePlan, used: list[MeteredQuantity], of: Slice) -> dict[LineKind, RatedLine]:
    lines = rate(plan, used, of=of).lines
    assert len({line.kind for line in lines}) == len(lines)
    return {line.kind: line for line in lines}


def exact(lines: dict[LineKind, RatedLine], kind: LineKind) -> Fraction:
    return Fraction(lines[kind].exact) if kind in lines else Fraction(0)


def numbers(pattern: re.Pattern[str], line: RatedLine) -> list[list[Fraction]]:
    found = [pattern.search(note.text) for note in line.explanation]
    return [[Fraction(text.replace(",", "")) for text in each.groups()] for each in found if each]


@ROUNDS
@given(
    quantities_by_hour,
    SMALL.above_zero,
    st.tuples(SMALL.units, SMALL.units, SMALL.units),
)
def test_C2_of_every_window_used_and_unused_are_what_was_reserved(by_hour, committed, prices):
    """And both lines are what one line was: the reservation, overage, less what is given back."""
    price, overage, back = prices
    back = min(price, back)
    plan = reserving(
        Reserved(
            committed=committed, window=Span.HOUR, price=price, overage=overage, shortfall=back
        )
    )
    lines = by_kind(plan, hourly(*by_hour), WHOLE)

    used = [min(Fraction(quantity), Fraction(committed)) for quantity in by_hour]
    beyond = [max(Fraction(quantity) - Fraction(committed), Fraction(0)) for quantity in by_hour]
    units = HOURS * Fraction(committed)
    unused = units - sum(used)
    assert exact(lines, LineKind.CHARGE) == sum(used) * Fraction(price) + sum(beyond) * Fraction(
        overage
    )
    assert exact(lines, LineKind.SHORTFALL) == unused * (Fraction(price) - Fraction(back))
    assert sum(Fraction(line.exact) for line in lines.values()) == (
        units * Fraction(price) + sum(beyond) * Fraction(overage) - unused * Fraction(back)
    )
    if LineKind.SHORTFALL in lines:
        told = lines[LineKind.SHORTFALL]
        windows = numbers(_WINDOW, told)
        assert [[whole, kept, left] for whole, kept, left in windows] == [
            [Fraction(committed), kept, Fraction(committed) - kept] for kept in used if kept
        ]
        assert numbers(_TOTAL, told) == [[HOURS, Fraction(committed), units, sum(used), unused]]


@ROUNDS
@given(quantities_by_hour, SMALL.units, SMALL.amounts, factors)
def test_C2_of_every_window_spent_and_missing_are_what_was_promised(by_hour, price, amount, factor):
    promised = Commitment(amount=amount, window=Span.HOUR, overage_factor=factor)
    lines = by_kind(reserving(PerUnit(price=price), commitment=promised), hourly(*by_hour), WHOLE)

    due, missing = Fraction(amount), exact(lines, LineKind.SHORTFALL)
    spent = [Fraction(quantity) * Fraction(price) for quantity in by_hour]
    over = [max(each - due, Fraction(0)) for each in spent]
    assert missing == sum(max(due - each, Fraction(0)) for each in spent)
    if missing:
        told = numbers(_TOTAL, lines[LineKind.SHORTFALL])
        assert told == [[HOURS, due, HOURS * due, HOURS * due - missing, missing]]
    assert sum(Fraction(line.exact) for line in lines.values()) == (
        HOURS * due + sum(over) * Fraction(factor)
    )


@ROUNDS
@given(
    st.tuples(quantities_by_hour, quantities_by_hour),
    SMALL.above_zero,
    st.tuples(SMALL.units, SMALL.units, SMALL.units),
    st.builds(
        Commitment,
        amount=SMALL.amounts,
        window=st.just(Span.HOUR),
        overage_factor=factors,
    ),
)
def test_R3_what_is_owed_for_windows_never_falls_with_usage(drawn, committed, prices, promised):
    """Exactly: the two lines are rounded each, so that a minor unit may wait in the residual."""
    price, overage, back = prices
    held = Reserved(
        committed=committed,
        window=Span.HOUR,
        price=price,
        overage=overage,
        shortfall=min(price, back),
    )
    fewer, more = drawn
    together = [first + second for first, second in zip(fewer, more, strict=True)]
    for plan in (reserving(held), reserving(PerUnit(price=price), commitment=promised)):
        owed = [
            sum(Fraction(line.exact) for line in rate(plan, hourly(*used), of=WHOLE).lines)
            for used in (fewer, together)
        ]
        assert owed == sorted(owed)


def test_a_shortfall_is_a_line_beside_its_charge_on_the_account_of_unused_commitments():
    (charge, shortfall) = rate(reserving(HOURLY), hourly(12, 4), of=WHOLE).lines
    assert (charge.key, charge.exact, charge.quantity) == ("k", 14 * 2 + 2 * 5, 16)
    assert (shortfall.key, shortfall.kind, shortfall.charge_key) == (
        "k:shortfall",
        LineKind.SHORTFALL,
        "k",
    )
    assert (shortfall.exact, shortfall.meter, shortfall.by_model) == (52, None, ((None, 16),))
    assert shortfall.description == "K: shortfall"
    assert [note.text for note in shortfall.explanation] == [
        "2026-11-01T00:00+0000: 10 committed = 10 used + 0 unused",
        "2026-11-01T01:00+0000: 10 committed = 4 used + 6 unused",
        "4 windows x 10 = 40 committed = 14 used + 26 unused",
        "26 x 2 = 52 USD",
        "52, rounded 52.00 USD",
    ]
    assert account_of(LineKind.CHARGE) is AccountCode.REVENUE
    assert account_of(LineKind.SHORTFALL) is AccountCode.UNUSED_COMMITMENT


def test_what_windows_left_unused_is_known_once_the_period_is_over():
    """Until then only what was used is owed; a later slice that ends the period has the line."""
    opened = rate(reserving(HOURLY), hourly(12, 4), of=OPEN).lines
    assert [(line.key, line.exact) for line in opened] == [("k", 38)]

    before = [replace(each, before=each.quantity, quantity=ZERO) for each in hourly(12, 4)]
    late = [*before, *hourly(0, 0, 10)[2:]]
    closing = rate(reserving(HOURLY), late, of=replace(WHOLE, opens_period=False)).lines
    assert [(line.key, line.exact) for line in closing] == [("k", 20), ("k:shortfall", 32)]


def test_a_discount_is_off_both():
    lines = by_kind(reserving(HOURLY, discount_percent=Decimal(25)), hourly(12, 4), WHOLE)
    assert exact(lines, LineKind.CHARGE) == Fraction(57, 2)
    assert exact(lines, LineKind.SHORTFALL) == 39


@pytest.mark.parametrize(
    ("bent", "kind", "minor"),
    [
        ({"maximum": Decimal(80)}, LineKind.MAXIMUM, -1000),
        ({"minimum": Decimal(100)}, LineKind.MINIMUM, 1000),
        ({"commitment": Commitment(amount=Decimal(100))}, LineKind.TRUE_UP, 1000),
        (
            {"commitment": Commitment(amount=Decimal(80), overage_factor=Decimal(2))},
            LineKind.OVERAGE,
            1000,
        ),
    ],
)
def test_bounds_are_of_the_charge_and_its_shortfall_together(bent, kind, minor):
    lines = by_kind(reserving(HOURLY, **bent), hourly(12, 4), WHOLE)
    assert list(lines) == [LineKind.CHARGE, LineKind.SHORTFALL, kind]
    assert lines[kind].amount.minor == minor


def test_bounds_are_met_to_the_minor_unit_where_both_lines_are_rounded_up():
    """0.005 used and 39.995 unused are 0.01 and 40.00: at most 40.00 is billed all the same."""
    price = replace(HOURLY, committed=Decimal(1), price=Decimal(10))
    used = hourly(Decimal("0.0005"))
    free, bounded = (
        rate(plan, used, of=WHOLE).lines
        for plan in (reserving(price), reserving(price, maximum=Decimal(40)))
    )
    assert [line.amount.minor for line in free] == [1, 4000]
    assert sum(line.exact for line in free) == 40
    assert sum(line.amount.minor for line in bounded) == 4000


def test_what_is_reserved_is_held_at_its_price_since_the_period_is_open():
    (charge,) = reserving(replace(HOURLY, overage=Decimal(1))).charges
    assert highest_price(charge) == 2


def test_the_key_of_a_shortfall_is_no_key_of_a_charge():
    plan = reserving(HOURLY)
    taken = flat_fee(key="k:shortfall", description="Fee", amount=Decimal(1))
    with pytest.raises(InvalidPlan) as refused:
        replace(plan, charges=(*plan.charges, taken))
    assert refused.value.field == "charges[1].key"
