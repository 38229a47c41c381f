"""What one grant is to a model of credit: its turn, its scope, what is owed for it; who pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID
from zoneinfo import ZoneInfo

from billing.ledger.credit_grant import GrantKind, Rollover, TaxedAt
from billing.operations.credits.grant_credit import GrantTerms

PRICES = {"input": Fraction("0.000001000003"), "output": Fraction("0.000000333333333")}
"""By line key; the second needs more decimals than the ledger has."""

METERS = {"input": "tokens.input", "output": "tokens.output"}
CALENDAR = ZoneInfo("America/New_York")
TICK = timedelta(microseconds=1)
ZERO = Decimal(0)
NOBODY = UUID(int=0)
"""Of a grant that the database did not make."""

Day = tuple[datetime, str, date]
"""Begin of a billing period, line key, local day."""


def rounded(exact: Fraction, decimals: int) -> Decimal:
    """Half up, away from zero for negatives."""
    units = math.floor(abs(exact) * 10**decimals + Fraction(1, 2))
    return Decimal(units if exact >= 0 else -units).scaleb(-decimals)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), CALENDAR).astimezone(UTC)


def month_of(at: datetime) -> tuple[datetime, datetime]:
    """The local calendar month that contains an instant."""
    first = at.astimezone(CALENDAR).date().replace(day=1)
    return midnight(first), midnight((first + timedelta(days=32)).replace(day=1))


@dataclass(slots=True, kw_only=True)
class Lot:
    """A grant and what became of it."""

    id: UUID
    key: str
    terms: GrantTerms
    amount: Decimal
    cost: Decimal
    starts: datetime
    expires: datetime | None
    rollover: Rollover | None
    heads_series: bool
    recurs: bool
    used: Decimal = ZERO
    lapsed: Decimal = ZERO
    voided: bool = False

    @property
    def remaining(self) -> Decimal:
        return self.amount - self.used - self.lapsed

    def owed(self, remaining: Decimal) -> Decimal:
        return rounded(Fraction(self.cost) * Fraction(remaining) / Fraction(self.amount), 12)

    @property
    def is_means_of_payment(self) -> bool:
        return self.terms.taxed_at is TaxedAt.REDEMPTION

    @property
    def backs_holds(self) -> bool:
        return self.terms.scope.is_everything

    def is_valid(self, at: datetime) -> bool:
        return self.starts <= at and (self.expires is None or at < self.expires)

    def pays(self, line: str, day: date) -> bool:
        """Whether it may pay usage of a line on a local day, by scope and by validity."""
        meters = self.terms.scope.meters
        begins, ends = midnight(day), midnight(day + timedelta(days=1))
        return (
            (meters is None or METERS[line] in meters)
            and self.starts < ends
            and (self.expires is None or begins < self.expires)
        )

    def turn(self) -> tuple[int, bool, datetime, bool, datetime, UUID]:
        """Priority, earliest end, promotional before paid, oldest."""
        never = self.expires is None
        ends = self.starts if self.expires is None else self.expires
        paid = self.terms.kind is GrantKind.PAID
        order = (
            self.terms.priority,
            never,
            ends if not never else datetime.max.replace(tzinfo=UTC),
        )
        return (*order, paid, self.starts, self.id)


Charge = tuple[Day, Decimal]
Part = tuple[Lot, Day, Decimal]


def drawn(lots: Sequence[tuple[Lot, Decimal]], charges: Iterable[Charge]) -> list[Part]:
    """Which lot pays how much of which charge: charges by day and line, lots in their turn."""
    left = {lot.key: amount for lot, amount in lots}
    ordered = sorted((lot for lot, _ in lots), key=Lot.turn)
    parts: list[Part] = []
    for (month, line, day), amount in sorted(charges, key=lambda each: (each[0][2], *each[0][:2])):
        due = amount
        for lot in ordered:
            part = min(due, left[lot.key]) if lot.pays(line, day) else ZERO
            if part > 0:
                due, left[lot.key] = due - part, left[lot.key] - part
                parts.append((lot, (month, line, day), part))
    return parts


def shares(total: int, weights: Sequence[Decimal]) -> list[int]:
    """A total split in proportion: units left over go to the largest remainders, first come."""
    exact = [Fraction(total) * Fraction(each) / Fraction(sum(weights)) for each in weights]
    parts = [math.floor(each) for each in exact]
    by_rest = sorted(range(len(exact)), key=lambda n: (parts[n] - exact[n], n))
    for place in by_rest[: total - sum(parts)]:
        parts[place] += 1
    return parts
