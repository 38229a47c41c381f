"""Lines below zero before credit: what a maximum or a coupon takes off is not covered by credit.

Decides: on which lines of a contract's billing period the others' credit is lowered, so that what
credit covers is what is left behind coupons, and never more than the invoice asks for. A line's
share is in proportion to what it earned. It comes off what is still due first, on the latest days;
only what nothing due can carry comes back to the grants, so that credit is not drawn, given back
and drawn again while usage goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from billing.ledger.credit_return import Balance, latest, total_of
from billing.money import EXACT, allocate_ledger

_ZERO = Decimal(0)


def lowered(
    lines: Mapping[str, Balance], lowers: Callable[[str], Collection[str]]
) -> dict[str, Balance]:
    """Balances of one contract's billing period with lines below zero taken off the others.

    Args:
        lines: by line key, each by itself; what one lies below zero is part of its `overpaid`.
        lowers: keys of the lines off which the line with a key takes.

    Returns:
        The same lines. `overpaid` is at most what credit paid of a line.
    """
    found = {
        key: replace(each, overpaid=min(each.overpaid, each.applied)) for key, each in lines.items()
    }
    below = {
        key: (EXACT.subtract(each.overpaid, each.applied), sorted(lowers(key)))
        for key, each in lines.items()
        if each.overpaid > each.applied
    }
    # The narrowest first: what a maximum takes off its charge, a coupon on all cannot take too.
    for key in sorted(below, key=lambda each: (len(below[each][1]), each)):
        amount, of = below[key]
        found |= _taken_off({name: found[name] for name in of}, amount)
    return found


def _taken_off(lines: Mapping[str, Balance], amount: Decimal) -> dict[str, Balance]:
    worth = {
        key: EXACT.subtract(EXACT.add(_due(each), each.applied), each.overpaid)
        for key, each in lines.items()
    }
    amount = min(amount, total_of(worth.values()))
    shares = allocate_ledger(amount, [Fraction(each) for each in worth.values()])
    found = dict(lines)
    left = _ZERO
    for key, share in zip(found, shares, strict=True):
        found[key], rest = _less_due(found[key], share)
        left = EXACT.add(left, rest)
    for key, each in tuple(found.items()):
        found[key], left = _less_due(each, left)
    for key, each in tuple(found.items()):
        back = min(left, EXACT.subtract(each.applied, each.overpaid))
        found[key] = replace(each, overpaid=EXACT.add(each.overpaid, back))
        left = EXACT.subtract(left, back)
    return found


def _less_due(line: Balance, amount: Decimal) -> tuple[Balance, Decimal]:
    """A line with an amount off what is due on it, and what is left of the amount."""
    part = min(amount, _due(line))
    due = latest(line.due, part, take=False)
    return replace(line, due=due), EXACT.subtract(amount, part)


def _due(line: Balance) -> Decimal:
    return total_of(line.due.values())
