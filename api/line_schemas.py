"""What stands behind a line of an invoice, as tenants and operators both read it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar.params import QueryParameter

from api.fields import asked_instant, major_text, shown_request_id
from api.schemas import InvoiceLine, show_line
from billing.errors import InvalidInput
from billing.money import plain
from billing.operations.invoicing.explain_line import (
    PAGE_MAX,
    Check,
    LineEvents,
    LineExplanation,
    LineUsage,
)
from billing.period import Period

UsageGroup = Literal["day", "bucket"]
UsageGroupQuery = Annotated[
    UsageGroup, QueryParameter(description="Day of the contract's zone, or 15 minutes.")
]
PageLimit = Annotated[int, QueryParameter(ge=1, le=PAGE_MAX)]
AfterQuery = Annotated[
    str | None,
    QueryParameter(max_length=64, description="`next` of the page before."),
]


class ComparedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Two figures from different places that must be equal."""

    name: str
    stated: str
    found: str
    agrees: bool


class ExplainedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line with everything that leads to its amount.

    Its `exact` rounded, less `billed_before` (by earlier invoices of the same period), is
    `amount`. `counts` is the meter whose usage stands behind it, null if it counts nothing.
    """

    invoice: UUID
    line: InvoiceLine
    plan: str | None
    period_start: datetime
    period_end: datetime
    watermark: int
    billed_before: str
    counts: str | None
    checks: list[ComparedFigures]


class LineUsageSlot(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of a line in one slot of time."""

    start: datetime
    model: str | None
    quantity: str
    events: int


class UsageBehindLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line's usage as of its invoice; `source` says whether rollups or events were read."""

    key: str
    group: UsageGroup
    source: str
    slots: list[LineUsageSlot]
    checks: list[ComparedFigures]


class LineRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A usage event with what it counts for the line; below zero for what took usage back."""

    request_id: str
    occurred_at: datetime
    model: str | None
    quantity: str
    estimated: bool


class RequestsBehindLine(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a line's events by time; `quantity` is that of all pages.

    It is null where the meter's quantity is no sum of its events' (a maximum, a level over time).
    """

    key: str
    period_start: datetime
    period_end: datetime
    quantity: str | None
    requests: list[LineRequest]
    next: str | None
    checks: list[ComparedFigures]


def part_of_line(start: str | None, end: str | None) -> Period | None:
    """The part of a line's period that a query asks for; None for all of it.

    Raises:
        InvalidInput: one bound without the other, or not a period.
    """
    if start is None and end is None:
        return None
    if start is None or end is None:
        missing = "from" if start is None else "to"
        raise InvalidInput("half of a period", field=missing, remedy="send from and to")
    first, last = asked_instant(start, field="from"), asked_instant(end, field="to")
    if first >= last:
        raise InvalidInput("ends before it starts", field="to", remedy="choose a later instant")
    return Period(start=first, end=last)


def show_explained(found: LineExplanation) -> ExplainedLine:
    """A line's arithmetic."""
    head = found.invoice
    return ExplainedLine(
        invoice=head.id,
        line=show_line(found.line, head.currency),
        plan=found.plan,
        period_start=found.period.start,
        period_end=found.period.end,
        watermark=found.watermark,
        billed_before=major_text(found.billed_before_minor, head.currency),
        counts=found.counts,
        checks=_checks(found.checks),
    )


def show_line_usage(found: LineUsage, group: UsageGroup) -> UsageBehindLine:
    """A line's usage by slots of time."""
    return UsageBehindLine(
        key=found.line.key,
        group=group,
        source=found.source,
        slots=[
            LineUsageSlot(
                start=row.start, model=row.model, quantity=plain(row.quantity), events=row.events
            )
            for row in found.rows
        ],
        checks=_checks(found.checks),
    )


def show_line_events(found: LineEvents) -> RequestsBehindLine:
    """A page of a line's events."""
    return RequestsBehindLine(
        key=found.line.key,
        period_start=found.period.start,
        period_end=found.period.end,
        quantity=None if found.quantity is None else plain(found.quantity),
        requests=[
            LineRequest(
                request_id=shown_request_id(event.id),
                occurred_at=event.occurred_at,
                model=event.model,
                quantity=plain(event.quantity),
                estimated=event.estimated,
            )
            for event in found.events
        ],
        next=None if found.following is None else shown_request_id(found.following),
        checks=_checks(found.checks),
    )


def _checks(checks: Iterable[Check]) -> list[ComparedFigures]:
    return [
        ComparedFigures(
            name=check.name,
            stated=plain(check.stated),
            found=plain(check.found),
            agrees=check.agrees,
        )
        for check in checks
    ]
