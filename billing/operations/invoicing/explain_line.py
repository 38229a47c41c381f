"""Explain a line of an invoice: its arithmetic, the usage behind it, the requests behind that.

Decides: what must equal what on the way down, and says so with each answer: steps and exact amount,
exact amount and bill, line and rollup, rollup and events. Changes nothing where they differ.

Everything is as of the invoice's watermark: what came later is on a later invoice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from itertools import islice
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, InvalidInput, NotFound
from billing.invoicing.invoice import LineKind
from billing.money import EXACT, currency, from_minor, to_minor
from billing.operations.catalog.contracts import BoundPlan
from billing.operations.invoicing.line_source import (
    LineSource,
    count_of,
    line_of,
    source_of,
    total_of,
)
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.period import Period, day_start, require_on_grid, zone
from billing.store.invoice_lines import billed_before
from billing.store.invoices import InvoiceLineRow, InvoiceRow
from billing.store.usage.line_usage import (
    CountedEvent,
    adds_up,
    counted,
    events_in_order,
    place_of,
)

PAGE_MAX = 1000
GROUPS = ("day", "bucket")
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Two figures from different places that must be equal."""

    name: str
    stated: Decimal
    found: Decimal

    @property
    def agrees(self) -> bool:
        """Whether they are."""
        return self.stated == self.found


@dataclass(frozen=True, slots=True, kw_only=True)
class LineExplanation:
    """Everything that leads to a line's amount.

    Attributes:
        plan: of the line's contract, as `slug@version`; None for a line of no contract.
        period: whose usage it bills: an earlier one for a correction.
        watermark: newest epoch in it.
        counts: meter whose usage stands behind it; None if it counts nothing.
        exact: amount since the start of the period, in major units, not rounded.
        billed_before_minor: what earlier invoices billed on the same line of the same period.
    """

    invoice: InvoiceRow
    line: InvoiceLineRow
    plan: str | None
    period: Period
    watermark: int
    counts: str | None
    exact: Decimal
    billed_before_minor: int
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUsageRow:
    """Usage of a line in one slot of time. `start` is a day of the contract's zone, or a bucket."""

    start: datetime
    model: str | None
    quantity: Decimal
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LineUsage:
    """A line's usage by slots of time.

    Attributes:
        source: `rollup`, or `events` where the price asks for values that no rollup keeps together.
    """

    line: InvoiceLineRow
    source: str
    rows: tuple[LineUsageRow, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEvents:
    """A page of the events behind a line, by time.

    Attributes:
        period: the part of the line's period that was asked for.
        quantity: of all events of that part, not of the page alone; None where the meter's
            quantity is no sum of its events' (a maximum, a level over time).
        following: id of the page's last event if there are more.
    """

    line: InvoiceLineRow
    period: Period
    events: tuple[CountedEvent, ...]
    quantity: Decimal | None
    following: UUID | None
    checks: tuple[Check, ...]


def explain_line(
    connection: sa.Connection, *, tenant_id: int | None, invoice: str, line: str
) -> LineExplanation:
    """A line's arithmetic, checked.

    Args:
        tenant_id: whose invoices may be read; None for anybody's.
        invoice: id or number.
        line: its key, or its number on the invoice.

    Raises:
        NotFound: no such invoice or line, or another tenant's (T1).
    """
    view = require_invoice(connection, invoice, tenant_id=tenant_id)
    return _explain(connection, source_of(connection, view, line_of(view, line)))


def explain_lines(connection: sa.Connection, view: InvoiceView) -> tuple[LineExplanation, ...]:
    """All lines of an invoice; see `explain_line`."""
    return tuple(_explain(connection, source_of(connection, view, line)) for line in view.lines)


def usage_of_line(
    connection: sa.Connection, *, tenant_id: int | None, invoice: str, line: str, group: str = "day"
) -> LineUsage:
    """The usage behind a line, by day of the contract's zone or by quarter of an hour.

    Raises:
        NotFound: see `explain_line`.
        InvalidInput: another group.
        Conflict: the line counts no usage, or its meter's quantities do not add up.
    """
    if group not in GROUPS:
        raise InvalidInput("no such grouping", field="group", remedy="use day or bucket")
    view = require_invoice(connection, invoice, tenant_id=tenant_id)
    found = source_of(connection, view, line_of(view, line))
    counting = count_of(found)
    if not adds_up(connection, counting.selector.meter):
        raise Conflict(
            "quantities of this meter do not add up over time",
            field="line",
            remedy="ask for the line's events",
        )
    quarters = counting.quarters(connection, counting.scope.period)
    in_zone = zone(counting.own.contract.zone)
    rows: dict[tuple[datetime, str | None], tuple[Decimal, int]] = {}
    for row in quarters:
        slot = (day_start(row.at, in_zone) if group == "day" else row.at), row.model
        quantity, events = rows.get(slot, (_ZERO, 0))
        rows[slot] = EXACT.add(quantity, row.quantity), events + row.events
    return LineUsage(
        line=found.line,
        source="events" if counting.dimensions else "rollup",
        rows=tuple(
            LineUsageRow(start=start, model=model, quantity=quantity, events=events)
            for (start, model), (quantity, events) in sorted(
                rows.items(), key=lambda item: (item[0][0], item[0][1] or "")
            )
        ),
        checks=(_against_line(found, total_of(quarters)),),
    )


def events_of_line(
    connection: sa.Connection,
    *,
    tenant_id: int | None,
    invoice: str,
    line: str,
    period: Period | None = None,
    after: str | None = None,
    limit: int = 100,
) -> LineEvents:
    """The events behind a line, a page at a time, and what all of them count.

    Args:
        period: a part of the line's period, as a row of its usage; None for all of it.
        after: id of the last event of the page before.

    Raises:
        NotFound: see `explain_line`; no event of this id.
        InvalidInput: the limit.
        Conflict: the line counts no usage, or events of the period have left the database.
    """
    if not 1 <= limit <= PAGE_MAX:
        raise InvalidInput("limit out of range", field="limit", remedy=f"1 to {PAGE_MAX}")
    view = require_invoice(connection, invoice, tenant_id=tenant_id)
    found = source_of(connection, view, line_of(view, line))
    counting = count_of(found)
    whole = counting.scope.period
    asked = whole if period is None else _within(period, whole)
    scope = counting.meter_scope(asked)
    place = None if after is None else _place(connection, after, view.invoice.tenant_id)
    matching = (
        event
        for event in events_in_order(connection, scope, after=place, at_once=PAGE_MAX)
        if counting.counts(event)
    )
    page = tuple(islice(matching, limit + 1))
    quantity, checks = None, list[Check]()
    if adds_up(connection, counting.selector.meter):
        quantity = total_of([row for row in counted(connection, scope) if counting.counts(row)])
        if not counting.dimensions:
            rolled = total_of(counting.quarters(connection, asked))
            checks.append(Check(name="events add up to the rollup", stated=rolled, found=quantity))
        if asked == whole:
            checks.append(_against_line(found, quantity))
    return LineEvents(
        line=found.line,
        period=asked,
        events=page[:limit],
        quantity=quantity,
        following=page[limit - 1].id if len(page) > limit else None,
        checks=tuple(checks),
    )


def _explain(connection: sa.Connection, found: LineSource) -> LineExplanation:
    head, line = found.view.invoice, found.line
    rated = LineKind(line.kind).is_rated
    before = 0
    # Credit that was used before is no charge that was billed.
    if found.own is not None and rated:
        before = billed_before(
            connection,
            head,
            contract_id=found.own.contract.id,
            period_start=found.scope.period.start,
        ).get(found.line_key, 0)
    # A line without steps takes back what is rated no more: its cumulative amount is nothing.
    exact = line.exact if line.explanation or not rated else _ZERO
    counts = found.charge.selector if found.charge is not None else None
    return LineExplanation(
        invoice=head,
        line=line,
        plan=None if found.own is None else _plan_name(found.own),
        period=found.scope.period,
        watermark=found.scope.watermark,
        counts=counts.meter if counts else None,
        exact=exact,
        billed_before_minor=before,
        checks=tuple(_checks(connection, found, exact, before)),
    )


def _checks(
    connection: sa.Connection, found: LineSource, exact: Decimal, before_minor: int
) -> Iterable[Check]:
    line, in_currency = found.line, currency(found.view.invoice.currency)
    if not LineKind(line.kind).is_rated:
        # Credit is cut to what the invoice charges, and a residual line has no usage.
        return
    amounts = [Decimal(text) for step in line.explanation if (text := step["amount"]) is not None]
    with localcontext(EXACT):
        yield Check(
            name="steps add up to the exact amount", stated=exact, found=sum(amounts, _ZERO)
        )
    yield Check(
        name="rounded, less what was billed before, is the amount",
        stated=from_minor(line.amount_minor, in_currency),
        found=from_minor(to_minor(exact, in_currency) - before_minor, in_currency),
    )
    if found.charge is None or found.charge.selector is None:
        return
    counting = count_of(found)
    if adds_up(connection, counting.selector.meter):
        quarters = counting.quarters(connection, found.scope.period)
        yield _against_line(found, total_of(quarters))


def _against_line(found: LineSource, quantity: Decimal) -> Check:
    return Check(
        name="usage adds up to the line's quantity", stated=found.line.quantity, found=quantity
    )


def _within(asked: Period, whole: Period) -> Period:
    start, end = max(asked.start, whole.start), min(asked.end, whole.end)
    if start >= end:
        raise InvalidInput(
            "outside the line's period",
            field="from",
            remedy=f"from {whole.start:%Y-%m-%d} to {whole.end:%Y-%m-%d}",
        )
    # Rollups hold whole quarters of an hour, and the events are compared with them.
    require_on_grid(start, field="from")
    require_on_grid(end, field="to")
    return Period(start=start, end=end)


def _place(connection: sa.Connection, request_id: str, tenant_id: int) -> tuple[datetime, UUID]:
    try:
        event_id = UUID(hex=request_id.removeprefix("req_"))
    except ValueError:
        event_id = None
    found = None if event_id is None else place_of(connection, event_id, tenant_id=tenant_id)
    if found is None:
        raise NotFound(
            "no such request",
            field="after",
            remedy="use the request id of the last event of the page before",
        )
    return found


def _plan_name(entry: BoundPlan) -> str:
    return f"{entry.contract.plan_slug}@{entry.contract.plan_version}"
