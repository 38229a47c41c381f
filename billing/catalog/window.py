"""Windows: the parts of a week in which a price applies, on the grid of quarter hours.

Decides: which quarter hours of a local week belong to a window and when two windows share one.
A rollup holds a quarter hour of UTC, and every civil zone's midnight lies on that grid, so a
quarter hour is inside a window or outside it, never both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from zoneinfo import ZoneInfo

from billing.errors import InvalidPlan

QUARTERS_OF_DAY = 96
QUARTERS_OF_WEEK = 7 * QUARTERS_OF_DAY

DATES_MAX = 1000
"""Most single days that a window names."""

_TIME = re.compile(r"([01][0-9]|2[0-4]):(00|15|30|45)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Quarter hours of the tenant's local week, and days that are an exception.

    Attributes:
        name: how the plan calls it.
        quarters: 0 is Monday 00:00 to 00:15, 671 the last before the next Monday.
        closed_on: local days on which nothing is inside, whatever the weekday: holidays.
        open_on: local days that are inside whole.
    """

    name: str
    quarters: frozenset[int]
    closed_on: frozenset[date] = field(default_factory=frozenset[date])
    open_on: frozenset[date] = field(default_factory=frozenset[date])

    def __post_init__(self) -> None:
        if not self.quarters and not self.open_on:
            raise InvalidPlan(
                "a window without time in it", field="days", remedy="name days and hours"
            )
        if not all(0 <= quarter < QUARTERS_OF_WEEK for quarter in self.quarters):
            raise InvalidPlan(
                "not a quarter hour of a week",
                field="quarters",
                remedy="name days and hours of a week",
            )
        if len(self.closed_on) + len(self.open_on) > DATES_MAX:
            raise InvalidPlan("too many days", field="closed_on", remedy=f"at most {DATES_MAX}")
        if self.closed_on & self.open_on:
            raise InvalidPlan(
                "a day is both open and closed", field="open_on", remedy="name it once"
            )

    def holds(self, instant: datetime, zone: ZoneInfo) -> bool:
        """Whether an instant is inside, by the clock of a zone."""
        local = instant.astimezone(zone)
        day = local.date()
        if day in self.open_on:
            return True
        if day in self.closed_on:
            return False
        quarter = local.weekday() * QUARTERS_OF_DAY + local.hour * 4 + local.minute // 15
        return quarter in self.quarters

    def intersects(self, other: Window) -> bool:
        """Whether some instant could be inside both.

        Two windows with one week, of which each closes where the other opens, do not meet: that
        is how a window and the rest of the time are written.
        """
        if self.quarters & other.quarters:
            return True
        return self._opens_into(other) or other._opens_into(self)

    def rest(self, name: str) -> Window:
        """All the time that is outside this window."""
        return Window(
            name=name,
            quarters=frozenset(range(QUARTERS_OF_WEEK)) - self.quarters,
            closed_on=self.open_on,
            open_on=self.closed_on,
        )

    def _opens_into(self, other: Window) -> bool:
        """Whether a day that is open here has time in the other."""
        return any(
            day in other.open_on
            or (day not in other.closed_on and _has_time_on(day, other.quarters))
            for day in self.open_on
        )


def weekly(
    name: str,
    *,
    days: Iterable[int],
    start: str,
    end: str,
    closed_on: Iterable[date] = (),
    open_on: Iterable[date] = (),
) -> Window:
    """The same hours on some weekdays.

    Args:
        days: 0 is Monday.
        start, end: local times like `08:00` on the grid of quarter hours, half-open; an end that
            is not behind the start is on the next day.

    Raises:
        InvalidPlan: times off the grid, or a start at 24:00.
    """
    first, last = _quarter(start, field="from"), _quarter(end, field="to")
    if first == QUARTERS_OF_DAY:
        # It would name hours of the day after the one that is written.
        raise InvalidPlan(
            "a window begins at the end of its day",
            field="from",
            remedy="write 00:00 and name the next day",
        )
    if last <= first:
        last += QUARTERS_OF_DAY
    return Window(
        name=name,
        quarters=frozenset(
            (day * QUARTERS_OF_DAY + quarter) % QUARTERS_OF_WEEK
            for day in days
            for quarter in range(first, last)
        ),
        closed_on=frozenset(closed_on),
        open_on=frozenset(open_on),
    )


def _quarter(text: str, *, field: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None or text > "24:00":
        raise InvalidPlan(
            "not a time on the grid of quarter hours",
            field=field,
            remedy="write it like 08:00 or 17:45",
        )
    return int(found[1]) * 4 + int(found[2]) // 15


def _has_time_on(day: date, quarters: frozenset[int]) -> bool:
    first = day.weekday() * QUARTERS_OF_DAY
    return any(first <= quarter < first + QUARTERS_OF_DAY for quarter in quarters)
