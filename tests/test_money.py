"""Money: one rounding rule, nothing lost, nothing silently out of range."""

from __future__ import annotations

from decimal import Decimal, Inexact
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.errors import AmountOutOfRange, InvalidInput
from billing.money import (
    EXACT,
    LEDGER_LIMIT,
    MINOR_LIMIT,
    Money,
    allocate,
    allocate_ledger,
    currency,
    decimals_of,
    exact_decimal,
    from_minor,
    plain,
    round_half_up,
    to_ledger,
    to_minor,
)
from tests.strategies import PATIENT, currencies

USD, EUR, JPY = currency("USD"), currency("EUR"), currency("JPY")


@pytest.mark.parametrize(
    ("exact", "code", "minor"),
    [
        ("0.005", "USD", 1),
        ("-0.005", "USD", -1),
        ("0.00499999999999999999", "USD", 0),
        ("-0.00499999999999999999", "USD", 0),
        ("1.005", "USD", 101),
        ("2.675", "USD", 268),
        ("0.5", "JPY", 1),
        ("-1.5", "JPY", -2),
        ("92233720368547758.07", "USD", MINOR_LIMIT - 1),
    ],
)
def test_halves_go_away_from_zero(exact, code, minor):
    assert to_minor(Decimal(exact), currency(code)) == minor
    assert to_minor(Fraction(exact), currency(code)) == minor


@PATIENT
@given(st.fractions(max_denominator=10**9), st.integers(0, 12))
def test_rounding_is_to_the_nearest_and_symmetric(exact, decimals):
    rounded = Fraction(round_half_up(exact, decimals))

    assert abs(rounded - exact) <= Fraction(1, 2 * 10**decimals)
    assert Fraction(round_half_up(-exact, decimals)) == -rounded
    if abs(rounded - exact) == Fraction(1, 2 * 10**decimals):
        assert abs(rounded) > abs(exact)


@PATIENT
@given(st.decimals(-(10**20), 10**20, allow_nan=False, places=18), st.integers(0, 18))
def test_decimals_and_fractions_round_alike(exact, decimals):
    assert round_half_up(exact, decimals) == round_half_up(Fraction(exact), decimals)


@pytest.mark.parametrize("size", [MINOR_LIMIT, MINOR_LIMIT + 1, 10**40])
def test_amounts_that_no_invoice_carries_raise(size):
    with pytest.raises(AmountOutOfRange):
        Money(minor=size, currency=USD)
    with pytest.raises(AmountOutOfRange):
        to_minor(Decimal(-size), JPY)


def test_amounts_that_the_ledger_cannot_keep_raise():
    largest = EXACT.subtract(LEDGER_LIMIT, Decimal("1E-12"))

    assert to_ledger(largest) == largest
    assert to_ledger(largest.copy_negate()) == largest.copy_negate()
    for beyond in (LEDGER_LIMIT, EXACT.add(largest, Decimal("5E-13"))):
        with pytest.raises(AmountOutOfRange):
            to_ledger(beyond)


def test_the_exact_context_raises_on_a_lost_digit():
    with pytest.raises(Inexact):
        EXACT.divide(Decimal(1), Decimal(3))


@PATIENT
@given(st.integers(-(10**18), 10**18), st.integers(-(10**18), 10**18), currencies)
def test_money_adds_and_reads_back_exactly(one, other, in_currency):
    left, right = (Money(minor=minor, currency=in_currency) for minor in (one, other))

    assert (left + right).minor == one + other
    assert (left - right) == left + -right
    assert to_minor(left.major(), in_currency) == one
    assert from_minor(one, in_currency) == left.major()


def test_two_currencies_do_not_add():
    with pytest.raises(InvalidInput):
        _ = Money(minor=1, currency=USD) + Money(minor=1, currency=EUR)


@pytest.mark.parametrize(
    ("minor", "code", "text"),
    [(1234, "USD", "12.34 USD"), (-5, "EUR", "-0.05 EUR"), (7, "JPY", "7 JPY")],
)
def test_money_as_text(minor, code, text):
    assert str(Money(minor=minor, currency=currency(code))) == text


@pytest.mark.parametrize("code", ["usd", "XXX", "", "BHD"])
def test_unknown_currencies_are_refused(code):
    with pytest.raises(InvalidInput) as refused:
        currency(code)

    assert refused.value.field == "currency"


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.10", "0.1"), ("-3", "-3"), ("+3.0", "3"), ("007", "7"), ("0.000000000000000001", "1E-18")],
)
def test_plain_numbers_are_read_exactly(text, value):
    assert exact_decimal(text, field="price") == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", ".", ".5", "3.", "1e3", "NaN", "Infinity", " 1", "1 ", "1,5", "1_0", "--1"),
        *("0x1", "\u0663", "0." + "0" * 18 + "1", "1" * 65),
    ],
)
def test_what_is_no_plain_number_is_refused(text):
    with pytest.raises(InvalidInput) as refused:
        exact_decimal(text, field="price")

    assert refused.value.field == "price"


def test_numbers_beyond_the_limit_are_refused():
    assert exact_decimal("1000000000000000000", field="quantity") == 10**18
    with pytest.raises(AmountOutOfRange):
        exact_decimal("1000000000000000000.000000000000000001", field="quantity")


@PATIENT
@given(st.decimals(-(10**18), 10**18, allow_nan=False, places=18))
def test_plain_text_round_trips(number):
    text = plain(number)

    assert exact_decimal(text, field="number") == number
    assert text == plain(number.normalize(EXACT))
    assert decimals_of(number) == len(text.partition(".")[2])


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (-100, [1, 1, 1], [-34, -33, -33]),
        (5, [0, 1, 0], [0, 5, 0]),
        (1, [1, 1], [1, 0]),
        (0, [], []),
        (0, [0, 0], [0, 0]),
        (10, [Fraction(1, 3), Fraction(2, 3)], [3, 7]),
    ],
)
def test_allocation_gives_what_is_left_to_the_largest_remainder(total, weights, parts):
    assert allocate(total, weights) == parts


weights_strategy = st.lists(
    st.one_of(st.integers(0, 10**18), st.fractions(0, 10**6, max_denominator=10**6)),
    min_size=1,
    max_size=12,
).filter(any)


@PATIENT
@given(st.integers(-(10**24), 10**24), weights_strategy)
def test_M1_parts_add_up_and_none_is_a_unit_off_its_share(total, weights):
    parts = allocate(total, weights)
    whole = sum(map(Fraction, weights))

    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - total * Fraction(weight) / whole) < 1


@PATIENT
@given(st.integers(-(10**30), 10**30), weights_strategy)
def test_M2_ledger_amounts_split_to_the_twelfth_decimal(units, weights):
    total = Decimal(f"{units}E-12")
    parts = allocate_ledger(total, weights)

    assert sum(map(Fraction, parts)) == Fraction(total)
    assert all(to_ledger(part) == part for part in parts)


@pytest.mark.parametrize(("total", "weights"), [(1, []), (1, [0, 0]), (1, [2, -1])])
def test_what_cannot_be_allocated_is_refused(total, weights):
    with pytest.raises(InvalidInput) as refused:
        allocate(total, weights)

    assert refused.value.field == "weights"


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_decimals_of_no_number(number):
    with pytest.raises(InvalidInput):
        decimals_of(Decimal(number))
