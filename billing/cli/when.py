"""Dates and periods as people type them.

A date without a time is the midnight that begins it: in the tenant's zone where a tenant is named,
else in the zone that the command takes, UTC by default. A month `YYYY-MM` of a tenant is its
billing period that begins in that month.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

import typer

from billing.errors import InvalidInput
from billing.period import (
    Period,
    local_midnight,
    month,
    parse_instant,
    parse_month,
    zone,
)
from billing.tenancy.tenant import Tenant

PeriodOption = Annotated[
    str | None, typer.Option("--period", metavar="YYYY-MM", help="A calendar month.")
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="DATE", help="First day, or first instant (RFC 3339)."),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", metavar="DATE", help="The day or instant before which it ends."),
]
ZoneOption = Annotated[
    str, typer.Option("--zone", help="IANA zone of dates and months given without an offset.")
]


def clock() -> datetime:
    """The time at which a command runs."""
    return datetime.now(UTC)


def instant(text: str, *, in_zone: str, field: str) -> datetime:
    """A date (its first midnight in a zone) or an RFC 3339 instant, in UTC.

    Raises:
        InvalidInput: neither of the two.
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return parse_instant(text, field=field)
    return local_midnight(day, zone(in_zone))


def billing_month(text: str, tenant: Tenant) -> Period:
    """The tenant's billing period that begins in a calendar month `YYYY-MM`.

    Raises:
        InvalidInput: not of that form.
    """
    calendar_zone = zone(tenant.zone)
    first = parse_month(text, calendar_zone).start.astimezone(calendar_zone)
    return month(first.year, first.month, calendar_zone, anchor_day=tenant.anchor_day)


def chosen_period(
    *,
    period: str | None,
    since: str | None,
    until: str | None,
    in_zone: str,
    tenant: Tenant | None = None,
    otherwise: Period | None = None,
) -> Period:
    """The period that the options name.

    Args:
        period: a month; of the tenant's billing calendar where one is named.
        since, until: dates or instants; both or none.
        in_zone: zone of dates without an offset.
        otherwise: the period where no option is given; None: one is required.

    Raises:
        InvalidInput: none, too many or half of the options, or malformed ones.
    """
    if period is not None and (since is not None or until is not None):
        raise InvalidInput(
            "both a month and dates", field="period", remedy="use --period, or --from and --to"
        )
    if period is not None:
        if tenant is not None:
            return billing_month(period, tenant)
        return parse_month(period, zone(in_zone))
    if since is not None and until is not None:
        return Period(
            start=instant(since, in_zone=in_zone, field="from"),
            end=instant(until, in_zone=in_zone, field="to"),
        )
    if since is not None or until is not None:
        missing = "to" if until is None else "from"
        raise InvalidInput("half of a period", field=missing, remedy="give --from and --to")
    if otherwise is None:
        raise InvalidInput(
            "which period?", field="period", remedy="use --period YYYY-MM, or --from and --to"
        )
    return otherwise
