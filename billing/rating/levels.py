"""Levels: seats and capacity, whose units cost what the days cost for which they are there.

Decides: tiers are chosen by whole units, prices apply to prorated ones. Units that leave take off
the tiers that they entered last; a flat fee is due once its tier was reached, for the whole period.
Prorated units have 12 decimals, like every figure that days divide, and are cumulative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from zoneinfo import ZoneInfo

from billing.catalog.price_plan import ProrationDays
from billing.catalog.tier import Tier
from billing.errors import InvalidInput
from billing.metering.aggregation import Point
from billing.money import EXACT, LEDGER_DECIMALS, round_half_up
from billing.period import Period, local_midnight
from billing.rating.groups import by_time
from billing.rating.proration import day_share
from billing.rating.quantity import LevelChange
from billing.rating.step import Terms, Weighing, figure
from billing.rating.tiers import Stretch, enter, is_charged_from_start, stretches

STEP = "price"
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelSpan:
    """A part of a billing period in which the readings of one level are known.

    Attributes:
        series: whose level it is, such as a project's; levels of several are added.
        initial: the level when the span begins.
        points: at which it was set within the span, in the total order.
    """

    series: int
    span: Period
    initial: Decimal
    points: tuple[Point, ...] = ()


def spans_of_level(
    points: Iterable[Point], spans: Iterable[Period], *, series: int, initial: Decimal
) -> Iterator[LevelSpan]:
    """A level cut into spans that adjoin one another; points behind the last are left out."""
    level, ahead = initial, iter(points)
    point = next(ahead, None)
    for span in spans:
        begins, inside = level, list[Point]()
        while point is not None and point.occurred_at < span.end:
            inside.append(point)
            level = point.value
            point = next(ahead, None)
        yield LevelSpan(series=series, span=span, initial=begins, points=tuple(inside))


def changes_of_spans(
    spans: Iterable[LevelSpan],
    *,
    period: Period,
    zone: ZoneInfo,
    days: ProrationDays = ProrationDays.HALF_OPEN,
) -> tuple[LevelChange, ...]:
    """How levels moved while a contract was in force: its spans adjoin one another.

    A level below zero counts as none, as a quantity of a period does.
    """
    found: list[LevelChange] = []
    ordered = sorted(spans, key=lambda each: (each.series, each.span.start))
    for _, same in groupby(ordered, key=lambda each: each.series):
        parts = list(same)
        found += level_changes(
            (point for part in parts for point in part.points),
            initial=parts[0].initial,
            period=period,
            covered=Period(start=parts[0].span.start, end=parts[-1].span.end),
            zone=zone,
            days=days,
        )
    return by_time(found)


def level_changes(
    points: Iterable[Point],
    *,
    initial: Decimal,
    period: Period,
    zone: ZoneInfo,
    covered: Period | None = None,
    days: ProrationDays = ProrationDays.HALF_OPEN,
) -> Iterator[LevelChange]:
    """How a level moved in a billing period, with the part of the period that each move weighs.

    Args:
        points: at which the level was set, in the total order, within what is covered.
        initial: the level when it begins.
        period: the billing period.
        zone: whose midnights bound days.
        covered: the part of the period in which units count; None: all of it.
        days: of added units, whether the day on which they join counts; the day on which units
            leave counts where it does for a contract that ends.
    """
    part = covered or period
    ends = part.end
    if days is ProrationDays.INCLUSIVE:
        # The last day counts, so that who leaves before it has to be freed of it.
        last = part.end.astimezone(zone).date()
        ends = min(local_midnight(last + timedelta(days=1), zone), period.end)
    level = _ZERO
    if initial > 0:
        level = initial
        share = day_share(part, period, zone, days=days)
        yield LevelChange(at=part.start, units=level, prorated=share.of(level))
    for point in points:
        units, level = EXACT.subtract(max(point.value, _ZERO), level), max(point.value, _ZERO)
        if not units:
            continue
        joined_by, left = days, Period(start=point.occurred_at, end=part.end)
        if units < 0 and days is ProrationDays.INCLUSIVE:
            # What leaves on a day is still there on it.
            joined_by, left = ProrationDays.HALF_OPEN, Period(start=point.occurred_at, end=ends)
        share = day_share(left, period, zone, days=joined_by)
        yield LevelChange(at=point.occurred_at, units=units, prorated=share.of(units))


def price_level_graduated(terms: Terms, weighing: Weighing, tiers: tuple[Tier, ...]) -> Weighing:
    """The part of each change that moved through a tier, at the tier's price."""
    _require_changes(terms, weighing)
    reached, level = _ZERO, _ZERO
    for change in weighing.changes:
        level = _moved(level, change)
        reached = max(reached, level)
    for stretch in stretches(terms.charge, tiers):
        entered = reached > stretch.lower
        if entered:
            weighing = _priced(terms, weighing, stretch, _prorated_in(stretch, weighing.changes))
        if entered or is_charged_from_start(terms, stretch):
            weighing = enter(terms, weighing, stretch)
    return weighing


def price_level_volume(terms: Terms, weighing: Weighing, tiers: tuple[Tier, ...]) -> Weighing:
    """All prorated units at the price of the tier of the whole level, as it is in the end."""
    _require_changes(terms, weighing)
    level = _ZERO
    for change in weighing.changes:
        level = _moved(level, change)
    for stretch in stretches(terms.charge, tiers):
        if stretch.upper is not None and level > stretch.upper:
            continue
        if weighing.quantity:
            weighing = _priced(terms, weighing, stretch, weighing.quantity)
        if level or is_charged_from_start(terms, stretch):
            weighing = enter(terms, weighing, stretch)
        return weighing
    raise AssertionError("the last tier is open")


def _require_changes(terms: Terms, weighing: Weighing) -> None:
    if weighing.quantity and not weighing.changes:
        raise InvalidInput(
            f"{terms.charge.key} prorates units, and the usage names no changes of a level",
            field="changes",
            remedy="use a meter of a level, or leave out prorated",
        )


def _moved(level: Decimal, change: LevelChange) -> Decimal:
    moved = level + change.units
    if moved < 0:
        raise InvalidInput(
            "a level falls below zero",
            field="changes",
            remedy="let the level begin higher, or take away less",
        )
    return moved


def _prorated_in(stretch: Stretch, changes: tuple[LevelChange, ...]) -> Decimal:
    """What the changes weigh within a tier, at 12 decimals."""
    weight, level = Fraction(0), _ZERO
    for change in changes:
        moved = level + change.units
        if change.units:
            part = stretch.part(moved) - stretch.part(level)
            weight += Fraction(change.prorated) * Fraction(part) / Fraction(change.units)
        level = moved
    return round_half_up(weight, LEDGER_DECIMALS)


def _priced(terms: Terms, weighing: Weighing, stretch: Stretch, prorated: Decimal) -> Weighing:
    amount = prorated * stretch.tier.unit
    return weighing.priced(
        STEP,
        f"{stretch.label()}, by days: {figure(prorated)} x {figure(stretch.tier.unit)}"
        f" = {figure(amount)} {terms.currency.code}",
        amount,
    )
