"""Periods: half-open spans of time, calendar months in a zone, the 15-minute grid.

Decides: what a period is, where a month of a tenant's calendar begins and ends, which instants
are on the metering grid. Decides nothing about which period an invoice covers or whether it is
closed. Every instant is an aware UTC datetime; a zone only turns a calendar into instants.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from billing.errors import InvalidInput

YEAR_END = 9999
"""Years from here on overflow when a zone's offset or a period's length is added."""

BUCKET = timedelta(minutes=15)
"""Every civil zone's offset is a multiple of 15 minutes, so every local day is whole buckets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A half-open span `[start, end)` of aware UTC instants."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        require_utc(self.start, field="period.start")
        require_utc(self.end, field="period.end")
        if self.start >= self.end:
            raise InvalidInput(
                "a period must end after it starts",
                field="period",
                remedy="use an end after the start",
            )

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    def overlap(self, other: Period) -> Period | None:
        """The part shared with `other`, or None."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Period(start=start, end=end) if start < end else None

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%dT%H:%MZ}/{self.end:%Y-%m-%dT%H:%MZ}"


def require_utc(instant: datetime, *, field: str) -> datetime:
    """Return `instant` if it is aware and in UTC.

    Raises:
        InvalidInput: the instant is naive or in another zone.
    """
    if instant.tzinfo is None or instant.utcoffset() != timedelta(0):
        raise InvalidInput(
            "a time must be in UTC", field=field, remedy="write it like 2026-11-01T00:00:00Z"
        )
    return instant


def parse_instant(text: str, *, field: str) -> datetime:
    """Read an RFC 3339 instant with an offset and return it in UTC.

    Raises:
        InvalidInput: not a timestamp, or one without an offset.
    """
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or not 1970 <= instant.year < YEAR_END:
        raise InvalidInput(
            "not a timestamp with an offset, or out of range",
            field=field,
            remedy="write it like 2026-11-01T00:00:00Z",
        )
    return instant.astimezone(UTC)


def zone(name: str, *, field: str = "zone") -> ZoneInfo:
    """The IANA time zone with this name.

    Raises:
        InvalidInput: no such zone. There is no fall-back to UTC: it would move a bill by hours.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            "unknown time zone", field=field, remedy="use an IANA name like Europe/Paris"
        ) from None


def bucket_of(instant: datetime) -> datetime:
    """Start of the 15-minute UTC bucket that holds `instant`."""
    return instant - timedelta(
        minutes=instant.minute % 15, seconds=instant.second, microseconds=instant.microsecond
    )


def require_on_grid(instant: datetime, *, field: str) -> datetime:
    """Return `instant` if it is on the 15-minute grid.

    Raises:
        InvalidInput: it is not; a price change inside a bucket could not be rated from rollups.
    """
    require_utc(instant, field=field)
    if bucket_of(instant) != instant:
        raise InvalidInput(
            "not on the 15-minute grid", field=field, remedy="use a whole quarter of an hour"
        )
    return instant


def local_midnight(day: date, in_zone: ZoneInfo) -> datetime:
    """The UTC instant at which `day` begins in a zone.

    Where the clock skips midnight the day begins when the clock jumps: a skipped time is read by
    the offset before the jump. Where midnight happens twice, the first counts.
    """
    return datetime(day.year, day.month, day.day, tzinfo=in_zone).astimezone(UTC)


def month(year: int, number: int, in_zone: ZoneInfo, *, anchor_day: int = 1) -> Period:
    """The billing month that begins in the given calendar month.

    Args:
        year: calendar year of the start.
        number: calendar month of the start, 1 to 12.
        in_zone: the zone whose midnights bound it.
        anchor_day: day of month on which it begins; clamped to the month's last day.
    """
    after_year, after_month = (year + 1, 1) if number == 12 else (year, number + 1)
    return Period(
        start=local_midnight(_anchored(year, number, anchor_day), in_zone),
        end=local_midnight(_anchored(after_year, after_month, anchor_day), in_zone),
    )


def month_of(instant: datetime, in_zone: ZoneInfo, *, anchor_day: int = 1) -> Period:
    """The billing month that holds `instant`."""
    local = instant.astimezone(in_zone).date()
    candidate = month(local.year, local.month, in_zone, anchor_day=anchor_day)
    if instant in candidate:
        return candidate
    year, number = (local.year - 1, 12) if local.month == 1 else (local.year, local.month - 1)
    return month(year, number, in_zone, anchor_day=anchor_day)


def parse_month(text: str, in_zone: ZoneInfo, *, field: str = "period") -> Period:
    """Read a calendar month written `YYYY-MM`.

    Raises:
        InvalidInput: not of that form.
    """
    try:
        first = date.fromisoformat(f"{text}-01")
    except ValueError:
        first = None
    if first is None or not 1970 <= first.year < YEAR_END:
        raise InvalidInput(
            "not a month, or out of range", field=field, remedy="write it like 2026-11"
        )
    return month(first.year, first.month, in_zone)


def local_days(period: Period, in_zone: ZoneInfo) -> Iterator[date]:
    """The calendar days of a zone that the period touches, in order.

    A day that a zone left out of its calendar (Apia, 30 December 2011) is no day.
    """
    day = period.start.astimezone(in_zone).date()
    begins = local_midnight(day, in_zone)
    while begins < period.end:
        ends = local_midnight(day + timedelta(days=1), in_zone)
        if begins < ends:
            yield day
        day += timedelta(days=1)
        begins = ends


def quarter_hours(period: Period) -> Iterator[datetime]:
    """Starts of the quarter hours of a period that begins on the grid."""
    start = bucket_of(period.start)
    while start < period.end:
        yield start
        start += BUCKET


def day_start(instant: datetime, in_zone: ZoneInfo) -> datetime:
    """The instant at which an instant's local day began."""
    return local_midnight(instant.astimezone(in_zone).date(), in_zone)


def hour_start(instant: datetime, in_zone: ZoneInfo) -> datetime:
    """The instant at which an instant's local hour began.

    Of an hour that the clock shows twice, each is an hour of its own.
    """
    local = instant.astimezone(in_zone)
    past = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    return instant - past


def _anchored(year: int, number: int, anchor_day: int) -> date:
    return date(year, number, min(anchor_day, calendar.monthrange(year, number)[1]))
