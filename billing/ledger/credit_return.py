"""What of a line credit has still to cover, and which credit comes back when it covered too much.

A correction takes revenue back on the day on which it is booked, not on the day of the usage. So a
line is judged as a whole: what its days lack is made up by what its other days owe, latest first,
and only what credit paid beyond the whole line comes back to its grants. Decides amounts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from billing.ledger.credit_grant import CreditGrant
from billing.ledger.credit_order import turn
from billing.money import EXACT

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A line against what credit paid of it.

    Attributes:
        due: what is still to be covered by day, above zero.
        overpaid: what credit paid beyond what the line earned; zero while anything is due.
        applied: what credit paid in all.
    """

    due: Mapping[date, Decimal]
    overpaid: Decimal
    applied: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditUse:
    """What a grant paid on one day of a line, above zero."""

    grant: CreditGrant
    day: date
    amount: Decimal


def line_balance(earned: Mapping[date, Decimal], applied: Mapping[date, Decimal]) -> Balance:
    """Compare what a line earned by day, of either sign, with what credit paid of it by day."""
    net = {
        day: EXACT.subtract(earned.get(day, _ZERO), applied.get(day, _ZERO))
        for day in earned.keys() | applied.keys()
    }
    lacking = total_of(amount.copy_negate() for amount in net.values() if amount < 0)
    owed = total_of(amount for amount in net.values() if amount > 0)
    due = latest({day: amount for day, amount in net.items() if amount > 0}, lacking, take=False)
    return Balance(
        due=due,
        overpaid=max(_ZERO, EXACT.subtract(lacking, owed)),
        applied=total_of(applied.values()),
    )


def latest(
    due: Mapping[date, Decimal], amount: Decimal, *, take: bool = True
) -> dict[date, Decimal]:
    """The latest days of amounts above zero that make up an amount; what is left if not `take`."""
    left, taken, rest = amount, dict[date, Decimal](), dict[date, Decimal]()
    for day in sorted(due, reverse=True):
        part = min(due[day], left)
        left = EXACT.subtract(left, part)
        taken[day], rest[day] = part, EXACT.subtract(due[day], part)
    return {day: part for day, part in (taken if take else rest).items() if part}


def give_back(uses: Iterable[CreditUse], amount: Decimal) -> list[CreditUse]:
    """Which uses come back for an amount that was overpaid, in the reverse order of drawdown."""
    returned: list[CreditUse] = []
    left = amount
    for use in sorted(uses, key=lambda each: (each.day, turn(each.grant)), reverse=True):
        part = min(use.amount, left)
        if part:
            left = EXACT.subtract(left, part)
            returned.append(CreditUse(grant=use.grant, day=use.day, amount=part))
    return returned


def total_of(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum of amounts."""
    total = _ZERO
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
