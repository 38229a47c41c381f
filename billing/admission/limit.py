"""Limits: how much of something may be used in a window of time.

Decides: which limits exist and which requests one applies to. Does not decide how much of it is
left: that is known to the database and, in part, to the leases of this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final, assert_never

from billing.period import local_midnight, zone

_EPOCH: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_MICROSECOND: Final = timedelta(microseconds=1)
_MINUTE_US: Final = 60_000_000


class Unit(StrEnum):
    """What a limit counts. Slots are requests in flight: given back, never drawn."""

    MONEY = "money"
    TOKENS = "tokens"
    REQUESTS = "requests"
    SLOTS = "slots"


class Window(StrEnum):
    """After which time a limit starts again: minutes in UTC, the others in the tenant's zone."""

    NONE = "none"
    MINUTE = "minute"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit of a tenant.

    Attributes:
        hard: at its end requests are refused; a soft limit only tells.
        shadow: it is counted and refuses nothing, so that it can be tried out.
        capacity: of one window over all processes; money in 10⁻¹² of the major unit.
        currency: in which it counts money; "" where it counts anything else.
        project_id, key_id, model_id: whose requests it counts; None: of all.
        zone: the tenant's, whose midnights bound days, weeks and months.
    """

    id: int
    name: str
    unit: Unit
    window: Window
    hard: bool
    shadow: bool
    capacity: int
    currency: str = ""
    project_id: int | None = None
    key_id: int | None = None
    model_id: int | None = None
    zone: str = "UTC"

    def applies(self, *, project_id: int, key_id: int, model_id: int) -> bool:
        """Whether it counts a request of this project and key for this model."""
        return (
            self.project_id in (None, project_id)
            and self.key_id in (None, key_id)
            and self.model_id in (None, model_id)
        )

    def window_at(self, now_us: int) -> tuple[int, int] | None:
        """Start and end (exclusive) of the window that holds an instant; None where it has none.

        All in µs since 1970 UTC.
        """
        if self.window is Window.NONE:
            return None
        if self.window is Window.MINUTE:
            start = now_us - now_us % _MINUTE_US
            return start, start + _MINUTE_US
        in_zone = zone(self.zone)
        today = (_EPOCH + timedelta(microseconds=now_us)).astimezone(in_zone).date()
        first, after = _days(self.window, today)
        start_us, end_us = (
            (local_midnight(day, in_zone) - _EPOCH) // _MICROSECOND for day in (first, after)
        )
        return start_us, end_us


def _days(window: Window, today: date) -> tuple[date, date]:
    """First day of the window that holds a day, and first day after it."""
    match window:
        case Window.DAY:
            return today, today + timedelta(days=1)
        case Window.WEEK:
            monday = today - timedelta(days=today.weekday())
            return monday, monday + timedelta(days=7)
        case Window.MONTH:
            first = today.replace(day=1)
            return first, (first + timedelta(days=31)).replace(day=1)
        case Window.NONE | Window.MINUTE:
            raise AssertionError("not of days")
        case _:
            assert_never(window)
