"""Proration: the part of a billing period that a contract covers, by local days.

Decides: which days count (those whose local midnight lies in the covered span, half-open, so that
a day belongs to exactly one of two adjoining contracts) and how a fee is cut: at the ledger's 12
decimals and cumulatively, so that the parts of any split add up to the whole fee.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

from billing.money import EXACT, to_ledger
from billing.period import Period, local_days, local_midnight


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


def day_share(covered: Period, period: Period, zone: ZoneInfo) -> DayShare:
    """The days of a billing period that a covered part of it holds."""
    midnights = [
        midnight
        for day in local_days(period, zone)
        if (midnight := local_midnight(day, zone)) in period
    ]
    return DayShare(
        days_before=sum(midnight < covered.start for midnight in midnights),
        days=sum(midnight in covered for midnight in midnights),
        of_days=len(midnights),
    )
