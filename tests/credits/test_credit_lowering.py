"""Lines below zero before credit: what they take off the others, exactly, and off which."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.ledger.credit_lowering import lowered
from billing.ledger.credit_return import Balance, line_balance
from billing.money import plain
from billing.operations.credits.charges import lines_lowered
from billing.planfiles.plan_file import read_plan

FIRST, SECOND = date(2026, 11, 1), date(2026, 11, 2)
KEYS = ("a", "b", "b:maximum", "some")
days = st.sampled_from((FIRST, SECOND))
signed = st.integers(-(10**15), 10**15).map(lambda units: Decimal(units).scaleb(-12))
above_zero = st.integers(1, 10**15).map(lambda units: Decimal(units).scaleb(-12))
balances = st.builds(
    line_balance, st.dictionaries(days, signed), st.dictionaries(days, above_zero, max_size=1)
)
PLAN = read_plan(
    """
slug: p
name: P
currency: USD
charges:
  - {type: per_unit, key: a, description: A, meter: requests, price: "1"}
  - {type: flat_fee, key: b, description: B, amount: "1"}
coupons:
  - {key: some, description: Part, percent_off: "10", charges: [b]}
  - {key: all, description: Whole, percent_off: "10"}
"""
)


def line(*due: str, applied: str = "0") -> Balance:
    """What is due from the first day on, of a line of which credit paid some on the first."""
    owed = dict(zip((FIRST, SECOND), map(Decimal, due), strict=False))
    owed[FIRST] = owed.get(FIRST, Decimal(0)) + Decimal(applied)
    return line_balance(owed, {FIRST: Decimal(applied)})


def due(found: dict[str, Balance]) -> dict[str, list[str]]:
    return {key: [plain(each.due[day]) for day in sorted(each.due)] for key, each in found.items()}


@given(st.dictionaries(st.sampled_from(KEYS), balances, min_size=1))
def test_C1_credit_covers_what_lines_come_to_together(lines: dict[str, Balance]) -> None:
    found = lowered(lines, lambda _: lines.keys())
    net = sum((sum(each.due.values()) - each.overpaid for each in lines.values()), Decimal(0))
    paid = sum((each.applied for each in lines.values()), Decimal(0))
    covered = sum((sum(each.due.values()) - each.overpaid for each in found.values()), Decimal(0))
    assert covered == max(net, -paid)
    assert all(0 <= each.overpaid <= each.applied for each in found.values())
    assert all(amount > 0 for each in found.values() for amount in each.due.values())
    again = lowered(found, lambda _: lines.keys())
    assert again == found


def test_a_coupon_is_shared_by_what_lines_earned_and_comes_off_the_latest_day() -> None:
    found = lowered({"a": line("60"), "b": line("10", "20"), "all": line("-9")}, lambda _: "ab")
    assert due(found) == {"a": ["54"], "b": ["10", "17"], "all": []}


def test_what_is_still_due_carries_the_share_of_a_line_that_is_paid() -> None:
    lines = {"a": line("0", applied="60"), "b": line("30"), "all": line("-9")}
    found = lowered(lines, lambda _: "ab")
    assert due(found) == {"a": [], "b": ["21"], "all": []}
    assert found["a"].overpaid == 0

    lines["b"] = line("3", applied="27")
    found = lowered(lines, lambda _: "ab")
    assert due(found)["b"] == []
    assert found["a"].overpaid + found["b"].overpaid == 6


def test_a_maximum_is_of_its_charge_and_a_coupon_of_those_that_it_names() -> None:
    lines = ("a", "b", "b:minimum", "b:maximum", "some", "all")
    assert lines_lowered(PLAN, lines, "b:maximum") == {"b", "b:minimum", "b:maximum"}
    assert lines_lowered(PLAN, lines, "some") == {"b", "b:minimum", "b:maximum"}
    assert lines_lowered(PLAN, lines, "all") == frozenset(lines)
    assert lines_lowered(PLAN, lines, "a") == frozenset(lines)

    found = lowered(
        {"a": line("5"), "b": line("50"), "b:maximum": line("-46"), "some": line("-4")},
        lambda key: lines_lowered(PLAN, lines[:-1], key) & {"a", "b", "b:maximum", "some"},
    )
    assert due(found) == {"a": ["5"], "b": [], "b:maximum": [], "some": []}
