"""Levels: seats and capacity, whose units cost what the days cost for which they are there.

Decides: tiers are chosen by whole units, prices apply to prorated ones. Units that leave take off
the tiers that they entered last; a flat fee is due once its tier was reached, for the whole period.
Prorated units have 12 decimals, like every figure that days divide, and are cumulative.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from billing.catalog.price_plan import ProrationDays
from billing.catalog.tier import Tier
from billing.errors import InvalidInput
from billing.metering.aggregation import Point
from billing.money import EXACT, LEDGER_DECIMALS, round_half_up
from billing.period import Period
from billing.rating.proration import day_share
from billing.rating.quantity import LevelChange
from billing.rating.step import Terms, Weighing, figure
from billing.rating.tiers import Stretch, enter, is_charged_from_start, stretches

STEP = "price"
_ZERO = Decimal(0)


def level_changes(
    points: Iterable[Point],
    *,
    initial: Decimal,
    period: Period,
    zone: ZoneInfo,
    days: ProrationDays = ProrationDays.HALF_OPEN,
) -> Iterator[LevelChange]:
    """How a level moved in a billing period, with the part of the period that each move weighs.

    Args:
        points: at which the level was set, in the total order, within the period.
        initial: the level when the period begins.
        period: the billing period.
        zone: whose midnights bound days.
        days: of added units, whether the day on which they join counts; the day on which units
            leave counts where it does for a contract that ends.
    """
    if initial:
        yield LevelChange(at=period.start, units=initial, prorated=initial)
    level = initial
    for point in points:
        units, level = EXACT.subtract(point.value, level), point.value
        if not units:
            continue
        joined_by = days
        if units < 0 and days is ProrationDays.INCLUSIVE:
            # What leaves on a day is still there on it.
            joined_by = ProrationDays.HALF_OPEN
        left = Period(start=point.occurred_at, end=period.end)
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
        raise InvalidInput("a level falls below zero", field="changes")
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
