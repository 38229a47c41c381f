"""Kinds of fields and parameters that many routes share, and how values are written in JSON.

Decides forms only: amounts and quantities are text, instants are RFC 3339 in UTC, text has no
NUL (PostgreSQL keeps none) and at most 256 characters.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

import msgspec
from litestar.params import PathParameter, QueryParameter

from billing.errors import InvalidInput
from billing.money import currency, from_minor
from billing.period import (
    Period,
    month,
    parse_instant,
    parse_month,
    require_on_grid,
    zone,
)
from billing.tenancy.tenant import Tenant

_NO_NUL = r"^[^\x00]*$"
_SLUG = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"
_MONTH = r"^2[0-9]{3}-(0[1-9]|1[0-2])$"
_ID_MAX = 2**31 - 1
_UTC = zone("UTC")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=_NO_NUL)]
Name = Annotated[str, msgspec.Meta(max_length=200, pattern=_NO_NUL)]
Slug = Annotated[str, msgspec.Meta(pattern=_SLUG)]
Month = Annotated[str, msgspec.Meta(pattern=_MONTH)]
Instant = Annotated[datetime, msgspec.Meta(tz=True)]
DecimalText = Annotated[str, msgspec.Meta(max_length=64, examples=["12.34"])]

SlugPath = Annotated[str, PathParameter(pattern=_SLUG)]
TextPath = Annotated[str, PathParameter(max_length=256, pattern=_NO_NUL)]
IdPath = Annotated[int, PathParameter(ge=1, le=_ID_MAX)]
SlugQuery = Annotated[str | None, QueryParameter(pattern=_SLUG)]
MonthQuery = Annotated[
    str | None, QueryParameter(pattern=_MONTH, description="Calendar month, UTC.")
]
FromQuery = Annotated[
    str | None,
    QueryParameter(name="from", max_length=40, description="RFC 3339 instant, included."),
]
ToQuery = Annotated[
    str | None, QueryParameter(name="to", max_length=40, description="RFC 3339 instant, excluded.")
]


def major_text(minor: int, currency_code: str) -> str:
    """Minor units as an amount in major units, with all digits of the currency."""
    return f"{from_minor(minor, currency(currency_code)):f}"


def ledger_text(amount: Decimal) -> str:
    """An exact amount with the digits that it is kept with."""
    return f"{amount:f}"


def shown_request_id(event_id: UUID) -> str:
    """The id of a request as the proxy's header shows it."""
    return f"req_{event_id.hex}"


def in_utc(instant: datetime, *, field: str) -> datetime:
    """An aware instant in UTC.

    Raises:
        InvalidInput: so near the end of the calendar that UTC has no such date.
    """
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise InvalidInput("outside the calendar", field=field, remedy="check the year") from None


def asked_instant(text: str, *, field: str) -> datetime:
    """An instant from a query.

    Raises:
        InvalidInput: not one.
    """
    try:
        return parse_instant(text, field=field)
    except OverflowError:
        raise InvalidInput("outside the calendar", field=field, remedy="check the year") from None


def asked_period(
    start: str | None, end: str | None, *, default: Period, on_grid: bool = False
) -> Period:
    """The period `from` … `to` of a query; what is left out is that of the default.

    Args:
        on_grid: bounds must be on the 15-minute grid, because sums are kept per quarter of an hour.

    Raises:
        InvalidInput: not instants, in the wrong order, or off the grid.
    """
    first = default.start if start is None else asked_instant(start, field="from")
    last = default.end if end is None else asked_instant(end, field="to")
    if on_grid:
        require_on_grid(first, field="from")
        require_on_grid(last, field="to")
    if first >= last:
        raise InvalidInput("ends before it starts", field="to", remedy="choose a later instant")
    return Period(start=first, end=last)


def book_period(
    calendar_month: str | None, start: str | None, end: str | None, *, now: datetime
) -> Period:
    """The period of a finance query: `period=YYYY-MM`, or `from` and `to`, or the current month.

    Raises:
        InvalidInput: both ways at once, or not a period.
    """
    if calendar_month is None:
        return asked_period(start, end, default=month(now.year, now.month, _UTC))
    if start is not None or end is not None:
        raise InvalidInput(
            "a month and bounds", field="period", remedy="send period, or from and to"
        )
    return parse_month(calendar_month, _UTC)


def billing_month(tenant: Tenant, calendar_month: str) -> Period:
    """The billing period of a tenant that begins in a calendar month."""
    named = parse_month(calendar_month, _UTC).start
    return month(named.year, named.month, zone(tenant.zone), anchor_day=tenant.anchor_day)
