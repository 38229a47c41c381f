"""Lines against what credit paid of them: nothing is lost between due, overpaid and given back."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.ledger.credit_return import CreditUse, give_back, latest, line_balance
from tests.credits.grants import pure_grant

days = st.integers(1, 6).map(lambda number: date(2026, 11, number))
signed = st.integers(-(10**15), 10**15).map(lambda units: Decimal(units).scaleb(-12))
above_zero = st.integers(1, 10**15).map(lambda units: Decimal(units).scaleb(-12))


@given(st.dictionaries(days, signed), st.dictionaries(days, above_zero))
def test_C1_due_less_overpaid_is_earned_less_applied(
    earned: dict[date, Decimal], applied: dict[date, Decimal]
) -> None:
    balance = line_balance(earned, applied)
    due = sum(balance.due.values(), Decimal(0))
    net = sum(earned.values(), Decimal(0)) - sum(applied.values(), Decimal(0))
    assert due - balance.overpaid == net
    assert all(amount > 0 for amount in balance.due.values())
    assert not (due and balance.overpaid)


@given(st.dictionaries(days, above_zero), above_zero)
def test_the_latest_days_are_taken_first_and_the_rest_is_left(
    due: dict[date, Decimal], amount: Decimal
) -> None:
    taken, left = latest(due, amount), latest(due, amount, take=False)
    assert sum(taken.values()) == min(amount, sum(due.values()))
    assert {day: taken.get(day, 0) + left.get(day, 0) for day in due} == due
    assert not left or not taken or max(left) <= min(taken)


@given(st.lists(st.tuples(days, above_zero), max_size=8), above_zero)
def test_C1_what_comes_back_is_the_last_that_was_drawn(
    used: list[tuple[date, Decimal]], amount: Decimal
) -> None:
    uses = [
        CreditUse(grant=pure_grant(number), day=day, amount=part)
        for number, (day, part) in enumerate(used, start=1)
    ]
    back = give_back(uses, amount)
    assert sum(each.amount for each in back) == min(amount, sum(part for _, part in used))
    untouched = [use.day for use in uses if all(use.grant.id != each.grant.id for each in back)]
    assert not untouched or not back or max(untouched) <= min(each.day for each in back)
