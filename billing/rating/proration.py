"""Proration: the part of a billing period that a contract covers, by local days.

Decides: which days count (by default those whose local midnight lies in the covered span,
half-open, so that a day belongs to exactly one of two adjoining contracts) and how a fee is cut:
at the ledger's 12 decimals and cumulatively, so that the parts of any split add up to the whole
fee.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import assert_never
from zoneinfo import ZoneInfo

from billing.catalog.price_plan import ProrationDays
from billing.money import EXACT, to_ledger
from billing.period import Period, local_days, local_midnight

_MONTH = 30
"""Days of a month that is taken to have a fixed number of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayShare:
    """Some consecutive days of a billing period.

    Attributes:
        days_before: days of the period before them.
        days: how many they are.
        of_days: days of the whole period.
    """

    days_before: int
    days: int
    of_days: int

    @property
    def is_whole(self) -> bool:
        """True if they are all days of the period."""
        return self.days == self.of_days

    def of(self, amount: Decimal) -> Decimal:
        """These days' part of an amount for the whole period, exact or at 12 decimals."""
        if self.is_whole:
            return amount
        return EXACT.subtract(
            self._up_to(amount, self.days_before + self.days), self._up_to(amount, self.days_before)
        )

    def _up_to(self, amount: Decimal, days: int) -> Decimal:
        return to_ledger(Fraction(amount) * Fraction(days, self.of_days))


WHOLE = DayShare(days_before=0, days=1, of_days=1)
"""A contract that covers its whole billing period."""


def day_share(
    covered: Period,
    period: Period,
    zone: ZoneInfo,
    *,
    days: ProrationDays = ProrationDays.HALF_OPEN,
) -> DayShare:
    """The days of a billing period that a covered part of it holds.

    Args:
        covered: within the period.
        period: begins and ends at midnights of the zone.
        zone: whose calendar it is.
        days: which days count. `INCLUSIVE` counts the days on which the covered part begins and
            ends; `FIXED_30` takes every month to have 30 days, as on a 30/360 calendar.
    """
    match days:
        case ProrationDays.FIXED_30:
            first, last = (_thirtieth(at, period, zone) for at in (covered.start, covered.end))
            return DayShare(days_before=first, days=last - first, of_days=_MONTH)
        case ProrationDays.INCLUSIVE:
            begins = covered.start.astimezone(zone).date()
            ends = covered.end.astimezone(zone).date()
            dates = list(_days_begun(period, zone))
            return DayShare(
                days_before=sum(day < begins for day in dates),
                days=sum(begins <= day <= ends for day in dates),
                of_days=len(dates),
            )
        case ProrationDays.HALF_OPEN:
            midnights = [local_midnight(day, zone) for day in _days_begun(period, zone)]
            return DayShare(
                days_before=sum(midnight < covered.start for midnight in midnights),
                days=sum(midnight in covered for midnight in midnights),
                of_days=len(midnights),
            )
        case _:
            assert_never(days)


def days_between(start: datetime, end: datetime, zone: ZoneInfo) -> int:
    """Local days from one instant to another, by the calendar and not by 24 hours."""
    return (end.astimezone(zone).date() - start.astimezone(zone).date()).days


def _days_begun(period: Period, zone: ZoneInfo) -> Iterator[date]:
    return (day for day in local_days(period, zone) if local_midnight(day, zone) in period)


def _thirtieth(instant: datetime, period: Period, zone: ZoneInfo) -> int:
    """How many of a period's 30 days are over when an instant's first whole day begins."""
    if instant >= period.end:
        return _MONTH
    first = period.start.astimezone(zone).date()
    day = instant.astimezone(zone).date()
    if local_midnight(day, zone) < instant:
        day += timedelta(days=1)
    months = (day.year - first.year) * 12 + day.month - first.month
    passed = months * _MONTH + min(day.day, _MONTH) - min(first.day, _MONTH)
    return min(passed, _MONTH)
