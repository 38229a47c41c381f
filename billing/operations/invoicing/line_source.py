"""Where a line of an invoice comes from: its period, contract and charge, and which usage is its.

Which usage that is, is worked out here once more from the contracts (D16), not read from what
rating wrote: a check that repeated rating's own answer would find nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

import sqlalchemy as sa

from billing.catalog.charge import Charge
from billing.catalog.selector import Selector
from billing.errors import Conflict, NotFound
from billing.money import EXACT
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.invoicing.line_bases import Origin
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.period import Period, zone
from billing.store.invoice_lines import scopes
from billing.store.invoices import InvoiceLineRow, InvoiceRow, ScopeRow
from billing.store.usage.line_usage import MeterScope, QuarterRow, counted, rolled_up


class Placed(Protocol):
    """Usage with all that decides whose it is; quarters and events both have it."""

    @property
    def at(self) -> datetime: ...
    @property
    def model(self) -> str | None: ...
    @property
    def contract_ids(self) -> tuple[int, ...]: ...
    @property
    def values(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSource:
    """A line with where it comes from.

    Attributes:
        scope: the period that it bills, an earlier one for a correction, and how far it was seen.
        bound: contracts of the tenant.
        own: the line's; None for a line of no contract.
        line_key: key without contract and period.
    """

    view: InvoiceView
    line: InvoiceLineRow
    scope: ScopeRow
    bound: tuple[BoundPlan, ...]
    own: BoundPlan | None
    line_key: str
    charge: Charge | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineCount:
    """What decides which usage is a line's.

    Attributes:
        bound: contracts of the tenant.
        own: the line's.
        dimensions: those that some price of the meter asks for.
    """

    tenant_id: int
    scope: ScopeRow
    bound: tuple[BoundPlan, ...]
    own: BoundPlan
    selector: Selector
    dimensions: tuple[str, ...]

    def meter_scope(self, period: Period) -> MeterScope:
        """What to read of a part of the line's period."""
        return MeterScope(
            tenant_id=self.tenant_id,
            meter=self.selector.meter,
            period=period,
            watermark=self.scope.watermark,
            dimensions=self.dimensions,
        )

    def quarters(self, connection: sa.Connection, period: Period) -> list[QuarterRow]:
        """The line's usage, from rollups where they can tell it."""
        read = counted if self.dimensions else rolled_up
        return [row for row in read(connection, self.meter_scope(period)) if self.counts(row)]

    def counts(self, used: Placed) -> bool:
        """Whether usage is the line's: by the contracts of its time, else by those of now."""
        pricing = [
            entry
            for entry in self.bound
            if entry.contract.id in used.contract_ids and self._prices(entry, used)
        ] or [
            entry
            for entry in self.bound
            if entry.contract.in_force(used.at) and self._prices(entry, used)
        ]
        return [entry.contract.id for entry in pricing] == [self.own.contract.id] and self._selects(
            self.selector, self.own, used
        )

    def _prices(self, entry: BoundPlan, used: Placed) -> bool:
        return any(
            charge.selector is not None and self._selects(charge.selector, entry, used)
            for charge in entry.plan.charges
        )

    def _selects(self, selector: Selector, entry: BoundPlan, used: Placed) -> bool:
        values = dict(zip(self.dimensions, used.values, strict=True))
        return selector.selects(
            self.selector.meter, used.model, values, used.at, zone(entry.contract.zone)
        )


def total_of(rows: Iterable[QuarterRow]) -> Decimal:
    """The quantity of all rows."""
    total = Decimal(0)
    for row in rows:
        total = EXACT.add(total, row.quantity)
    return total


def source_of(connection: sa.Connection, view: InvoiceView, line: InvoiceLineRow) -> LineSource:
    """Where a line of an invoice comes from.

    Raises:
        Conflict: the invoice has no record of what it was rated from.
    """
    head = view.invoice
    rated = [*scopes(connection, head), *_beside(head)]
    scope = next((each for each in rated if each.period.start == head.period_start), None)
    if scope is None:
        raise Conflict(
            "nothing tells what this invoice was rated from",
            field="invoice",
            remedy="explain an invoice that was drafted here",
        )
    bound = tuple(bound_plans(connection, tenant_id=head.tenant_id))
    own = next((each for each in bound if each.contract.id == line.contract_id), None)
    line_key = line.key
    if own is not None:
        line_key = line.key.removeprefix(f"contract-{own.contract.id}/")
        for corrected in rated:
            suffix = f"@{corrected.period.start:%Y-%m-%d}"
            if line_key.endswith(suffix):
                scope, line_key = corrected, line_key.removesuffix(suffix)
                break
    charges = own.plan.charges if own is not None else ()
    return LineSource(
        view=view,
        line=line,
        scope=scope,
        bound=bound,
        own=own,
        line_key=line_key,
        charge=next((charge for charge in charges if charge.key == line_key), None),
    )


def _beside(head: InvoiceRow) -> Iterable[ScopeRow]:
    """Periods whose fees alone are billed, in advance, or given back."""
    return (
        ScopeRow(
            period=Period(
                start=datetime.fromisoformat(each["period_start"]),
                end=datetime.fromisoformat(each["period_end"]),
            ),
            watermark=head.watermark,
        )
        for origin in (Origin.AHEAD, Origin.UNEARNED)
        for each in head.inputs.get(origin.value, ())
    )


def line_of(view: InvoiceView, asked: str) -> InvoiceLineRow:
    """A line by its key, or by its number on the invoice.

    Raises:
        NotFound: there is none.
    """
    for line in view.lines:
        if asked in {line.key, str(line.ordinal)}:
            return line
    raise NotFound("no such line on this invoice", field="line", remedy="show the invoice first")


def count_of(found: LineSource) -> LineCount:
    """What decides which usage is a line's.

    Raises:
        Conflict: it counts none.
    """
    selector = None if found.charge is None else found.charge.selector
    if found.own is None or selector is None:
        raise Conflict(
            "this line counts no usage",
            field="line",
            remedy="its explanation says what it is made from",
        )
    asked = {
        condition.dimension
        for entry in found.bound
        for charge in entry.plan.charges
        if charge.selector is not None and charge.selector.meter == selector.meter
        for condition in charge.selector.where
    }
    return LineCount(
        tenant_id=found.view.invoice.tenant_id,
        scope=found.scope,
        bound=found.bound,
        own=found.own,
        selector=selector,
        dimensions=tuple(sorted(asked)),
    )
