"""What a backtest found: each billing period under the contracts and under another plan.

Decides: how changes are summed, ranked and put into classes. Amounts are what invoices would say
before credits and tax, in minor units. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal

from billing.catalog.price_plan import PricePlan
from billing.money import EXACT, Currency
from billing.operations.rating.rate_tenants import Level
from billing.period import Period
from billing.rating.line import UnratedQuantity

FALLS = (
    (-50, "less by 50 % and more"),
    (-25, "less by 25 to 50 %"),
    (-10, "less by 10 to 25 %"),
    (0, "less by under 10 %"),
)
RISES = (
    (0, "more by under 10 %"),
    (10, "more by 10 to 25 %"),
    (25, "more by 25 to 50 %"),
    (50, "more by 50 % and more"),
)
SAME, NEW = "the same", "paid nothing before"
CLASSES = (*(name for _, name in FALLS), SAME, *(name for _, name in RISES), NEW)
"""Classes of change in percent; a change that is a bound belongs to the class further from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodChange:
    """One tenant's billing period, rated twice from the same usage.

    Attributes:
        month: calendar month in which the period begins, `YYYY-MM`.
        before, after: minor units under the contracts, and under the plan.
    """

    tenant: str
    month: str
    period: Period
    level: Level
    before: int
    after: int
    unrated: tuple[UnratedQuantity, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Amounts under the contracts and under the plan, in minor units, and of whom or when."""

    name: str
    before: int
    after: int

    @property
    def difference(self) -> int:
        """What the plan brings more."""
        return self.after - self.before

    def percent(self) -> Decimal | None:
        """The difference in percent of what was paid, to one decimal; None if nothing was."""
        if self.before <= 0:
            return None
        tenths = (2 * 1000 * self.difference + self.before) // (2 * self.before)
        return Decimal(tenths).scaleb(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A tenant whose usage was not rated, and why."""

    tenant: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpriced:
    """Usage that the plan would leave without a price (R5), over all tenants."""

    meter: str
    model: str | None
    quantity: Decimal
    tenants: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A backtest's result.

    Attributes:
        periods: by tenant and time.
        watermark: newest epoch in the usage that was rated; None if no period was.
    """

    plan: PricePlan
    periods: tuple[PeriodChange, ...]
    left_out: tuple[LeftOut, ...]
    watermark: int | None

    @property
    def currency(self) -> Currency:
        """Of every amount."""
        return self.plan.currency

    def total(self) -> Change:
        """All tenants and periods together."""
        return _change("total", self.periods)

    def tenants(self) -> list[Change]:
        """By tenant, the largest increase first."""
        changes = _by(self.periods, lambda each: each.tenant)
        return sorted(changes, key=lambda each: (-each.difference, each.name))

    def months(self) -> list[Change]:
        """By month, in order."""
        return sorted(_by(self.periods, lambda each: each.month), key=lambda each: each.name)

    def read_from(self) -> dict[Level, int]:
        """How many tenants were read from which level."""
        pairs = {(each.tenant, each.level) for each in self.periods}
        return {level: n for level in Level if (n := sum(of is level for _, of in pairs))}

    def unpriced(self) -> list[Unpriced]:
        """Usage without a price, the meters in order."""
        quantities: dict[tuple[str, str | None], Decimal] = {}
        whose: defaultdict[tuple[str, str | None], set[str]] = defaultdict(set)
        for each in self.periods:
            for row in each.unrated:
                place = (row.meter, row.model)
                before = quantities.get(place, Decimal(0))
                quantities[place] = EXACT.add(before, row.quantity)
                whose[place].add(each.tenant)
        return [
            Unpriced(meter=meter, model=model, quantity=quantity, tenants=len(whose[meter, model]))
            for (meter, model), quantity in sorted(
                quantities.items(), key=lambda row: (row[0][0], row[0][1] or "")
            )
        ]

    def distribution(self) -> list[tuple[str, int]]:
        """Classes of change with the number of tenants in each; empty ones included."""
        counted = dict.fromkeys(CLASSES, 0)
        for each in self.tenants():
            counted[class_of(each)] += 1
        return list(counted.items())


def _by(periods: Iterable[PeriodChange], name_of: Callable[[PeriodChange], str]) -> list[Change]:
    groups: defaultdict[str, list[PeriodChange]] = defaultdict(list)
    for each in periods:
        groups[name_of(each)].append(each)
    return [_change(name, members) for name, members in groups.items()]


def _change(name: str, periods: Iterable[PeriodChange]) -> Change:
    before = after = 0
    for each in periods:
        before += each.before
        after += each.after
    return Change(name=name, before=before, after=after)


def class_of(change: Change) -> str:
    """The class of a change, one of `CLASSES`."""
    if change.difference == 0:
        return SAME
    if change.before <= 0:
        return NEW
    hundredfold = 100 * change.difference
    if change.difference < 0:
        return next(name for bound, name in FALLS if hundredfold <= bound * change.before)
    return next(name for bound, name in reversed(RISES) if hundredfold >= bound * change.before)
