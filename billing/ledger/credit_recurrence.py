"""Recurring credit: one grant after another, and what becomes of usage beyond one of them.

Decides: whether usage that a span's credit did not cover is taken from the next span's. By default
it is dropped: it was invoiced, and the next grant starts whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from billing.ledger.credit_grant import CreditLot, DayCharge
from billing.ledger.credit_order import Drawn, draw
from billing.period import Period


class Overage(StrEnum):
    """What becomes of usage beyond a recurring grant."""

    DROPPED = "dropped"
    CARRIED = "carried"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditSpan:
    """One recurrence: its lots, and what was charged in it."""

    during: Period
    lots: tuple[CreditLot, ...]
    charges: tuple[DayCharge, ...]


def draw_in_turn(spans: Iterable[CreditSpan], *, overage: Overage) -> Iterator[Drawn]:
    """Cover the charges of each span with its credit, in order of time."""
    beyond: tuple[tuple[DayCharge, Decimal], ...] = ()
    for span in spans:
        carried = [
            replace(charge, amount=left, day=span.during.start.date(), during=span.during)
            for charge, left in beyond
        ]
        drawn = draw(span.lots, [*carried, *span.charges])
        beyond = drawn.uncovered if overage is Overage.CARRIED else ()
        yield drawn
