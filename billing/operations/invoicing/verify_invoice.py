"""Verify an issued invoice: rate its periods again from raw events, and compare bit for bit (D10).

Decides: what must be equal. The quantities that were stored, what each rated line was computed
from and came to, the sums, what moved into receivables, and the digests of plans and terms. Events
up to the invoice's watermark count, under the contracts that its inputs name: what came later is on
a later invoice. Where events have left the database, lines are rated from the stored quantities.

Credit is verified by the invariants of its own books, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

import sqlalchemy as sa

from billing.errors import Conflict, SteelyardError
from billing.invoicing.document_kind import DocumentKind
from billing.invoicing.invoice import InvoiceTotals, LineKind, check_sums, due_on_line
from billing.ledger.account import AccountCode
from billing.metering.aggregation import Point
from billing.money import EXACT, currency, from_minor, plain
from billing.operations.catalog.contracts import BoundPlan, bound_plans
from billing.operations.catalog.plans import plan_of, require_plan_row
from billing.operations.invoicing.line_bases import Origin
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.rating.rate_advance import fees_in_advance, rated_to_nothing
from billing.operations.rating.rate_period import (
    RatedContract,
    RatedPeriod,
    rate_stored,
    rate_under,
)
from billing.operations.seal.verify import Finding
from billing.operations.tenancy.tenants import require_tenant
from billing.period import Period
from billing.planfiles.contract_file import terms_digest
from billing.planfiles.plan_dump import digest
from billing.rating.line import RatedLine
from billing.rating.quantity import MeteredQuantity
from billing.store import invoices as store
from billing.store import ledger
from billing.store.invoice_lines import billed_before, scopes
from billing.store.invoices import InvoiceLineRow, InvoiceQuantityRow, InvoiceRow, ScopeRow
from billing.store.usage.read import meter_units
from billing.tenancy.tenant import Tenant

CREDIT_PREFIX = "credit."
"""Of the keys on which an invoice settles what grants paid."""

_ZERO = Decimal(0)
_Place: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...], datetime | None]
_Amounts: TypeAlias = Mapping[_Place, tuple[Decimal, tuple[Point, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceCheck:
    """What came of verifying one invoice.

    Attributes:
        from_events: whether raw events were rated; False where they have left the database.
        lines: rated lines that were compared.
        findings: what differs; empty when all is well.
    """

    invoice: InvoiceRow
    from_events: bool
    lines: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """One billing period of an invoice, rated again.

    Attributes:
        here: ids of the contracts whose lines are on the invoice.
        has_quantities: whether the invoice stores what they were rated from.
    """

    rated: RatedPeriod
    from_events: bool
    here: frozenset[int]
    has_quantities: bool


def verify_invoices(connection: sa.Connection) -> Iterator[InvoiceCheck]:
    """Verify every issued invoice, in the operator role's snapshot transaction."""
    for row in store.invoices(connection, tenant_id=None):
        if row.number is not None:
            yield verify_invoice(connection, str(row.id))


def verify_invoice(connection: sa.Connection, invoice: str) -> InvoiceCheck:
    """Verify one invoice, by id or number, in the operator role's snapshot transaction.

    Raises:
        NotFound: no such invoice.
        Conflict: it is a draft.
    """
    view = require_invoice(connection, invoice, tenant_id=None)
    head = view.invoice
    if head.number is None:
        raise Conflict("a draft is rated anew each time", field="invoice", remedy="issue it first")
    tenant = require_tenant(connection, head.tenant)
    found = [*_sums(connection, view)]
    rated: list[_Scope] = []
    for scope in scopes(connection, head):
        found += _digests(connection, head, scope)
        try:
            rated.append(_rated(connection, tenant, head, scope))
        except SteelyardError as error:
            period = f"{scope.period.start:%Y-%m-%d}"
            found.append(_finding(head, f"the period from {period} cannot be rated: {error.code}"))
    found += _quantities(connection, head, rated)
    rated += _fees(connection, tenant, head)
    lines = [line for line in view.lines if LineKind(line.kind).is_rated]
    found += _lines(connection, head, lines, rated)
    return InvoiceCheck(
        invoice=head,
        from_events=all(scope.from_events for scope in rated),
        lines=len(lines),
        findings=tuple(found),
    )


def _sums(connection: sa.Connection, view: InvoiceView) -> Iterator[Finding]:
    head = view.invoice
    try:
        check_sums(
            [line.amount_minor for line in view.lines],
            InvoiceTotals(
                subtotal_minor=head.subtotal_minor,
                tax_minor=head.tax_minor,
                total_minor=head.total_minor,
                amount_due_minor=head.amount_due_minor,
            ),
        )
    except SteelyardError as error:
        yield _finding(head, error.message)
    gives_back = head.kind == DocumentKind.CREDIT_NOTE
    moved = ledger.moved_for(
        connection,
        legal_entity_id=head.legal_entity_id,
        reference=head.number or "",
        kind="credit_note_issued" if gives_back else "invoice_issued",
        code=AccountCode.RECEIVABLE,
    )
    if moved != from_minor(head.total_minor, currency(head.currency)):
        yield _finding(head, "its total is not what moved into receivables")


def _digests(connection: sa.Connection, head: InvoiceRow, scope: ScopeRow) -> Iterator[Finding]:
    terms = {each.contract.id: terms_digest(each.terms) for each in _bound(connection, head, scope)}
    for named in _named(head, scope) or ():
        row = require_plan_row(connection, named["plan"], named["version"])
        if row.digest.hex() != digest(plan_of(row)):
            yield _finding(head, f"plan {row.slug}@{row.version} is not the one that was applied")
        if named["id"] not in terms or terms[named["id"]] != named.get("terms"):
            yield _finding(head, f"the terms of contract {named['id']} are not those it names")


def _rated(connection: sa.Connection, tenant: Tenant, head: InvoiceRow, scope: ScopeRow) -> _Scope:
    bound = _bound(connection, head, scope)
    named = _named(head, scope)
    here = (
        frozenset(entry.contract.id for entry in bound)
        if named is None
        else frozenset(each["id"] for each in named if each.get("here", True))
    )
    from_events = True
    try:
        rated = rate_under(
            connection,
            tenant=tenant,
            period=scope.period,
            bound=bound,
            until=_until(head),
            from_events=scope.watermark,
        )
    except Conflict:
        from_events = False
        rated = rate_stored(
            tenant=tenant,
            period=scope.period,
            watermark=scope.watermark,
            bound=bound,
            quantities=_stored(connection, head, scope),
            units=meter_units(connection),
            until=_until(head),
        )
    return _Scope(rated=rated, from_events=from_events, here=here, has_quantities=named is not None)


def _until(head: InvoiceRow) -> datetime | None:
    """How far an invoice of a running period rated it; None: to its end."""
    until = head.inputs.get("until")
    return None if until is None else datetime.fromisoformat(until)


def _fees(connection: sa.Connection, tenant: Tenant, head: InvoiceRow) -> Iterator[_Scope]:
    """Periods of which the invoice bills fees in advance, or gives them back."""
    for origin in (Origin.AHEAD, Origin.UNEARNED):
        for each in head.inputs.get(origin.value, ()):
            period = tenant.billing_period(datetime.fromisoformat(each["period_start"]))
            bound = _as_they_were(connection, head, period, each["contracts"])
            here = frozenset(entry.contract.id for entry in bound)
            parts = (
                [fees_in_advance(bound, tenant=tenant, period=period)]
                if origin is Origin.AHEAD
                else [rated_to_nothing(entry, tenant=tenant, period=period) for entry in bound]
            )
            for rated in parts:
                yield _Scope(rated=rated, from_events=True, here=here, has_quantities=False)


def _bound(connection: sa.Connection, head: InvoiceRow, scope: ScopeRow) -> list[BoundPlan]:
    return _as_they_were(connection, head, scope.period, _named(head, scope))


def _as_they_were(
    connection: sa.Connection,
    head: InvoiceRow,
    period: Period,
    named: Sequence[Mapping[str, Any]] | None,
) -> list[BoundPlan]:
    """The contracts as they were when the invoice was made: an end may have been set since."""
    bound = bound_plans(connection, tenant_id=head.tenant_id, at=period.start)
    if named is None:
        return bound
    by_id = {each["id"]: each for each in named}
    return [
        _as_named(entry, by_id[entry.contract.id]) for entry in bound if entry.contract.id in by_id
    ]


def _as_named(entry: BoundPlan, named: Mapping[str, Any]) -> BoundPlan:
    if "valid_until" not in named:
        return entry
    until = named["valid_until"]
    ended = None if until is None else datetime.fromisoformat(until)
    return replace(entry, contract=replace(entry.contract, valid_until=ended))


def _named(head: InvoiceRow, scope: ScopeRow) -> Sequence[Mapping[str, Any]] | None:
    """What the invoice's inputs say of the contracts of a period; None of those before it did."""
    if scope.period.start == head.period_start:
        return head.inputs["contracts"]
    for each in head.inputs.get("corrected", ()):
        if datetime.fromisoformat(each["period_start"]) == scope.period.start:
            return each["contracts"]
    return None


def _stored(
    connection: sa.Connection, head: InvoiceRow, scope: ScopeRow
) -> dict[int, list[MeteredQuantity]]:
    found: dict[int, list[MeteredQuantity]] = {}
    for row in store.quantities(connection, head.id):
        if row.period_start == scope.period.start and row.contract_id is not None:
            found.setdefault(row.contract_id, []).append(
                MeteredQuantity(
                    meter=row.meter,
                    model=row.model,
                    quantity=row.quantity,
                    dimensions=row.dimensions,
                    at=row.at,
                    transactions=row.transactions,
                    changes=row.changes,
                )
            )
    return found


def _quantities(
    connection: sa.Connection, head: InvoiceRow, rated: Iterable[_Scope]
) -> Iterator[Finding]:
    stored: dict[tuple[datetime, int | None], list[InvoiceQuantityRow]] = {}
    for row in store.quantities(connection, head.id):
        stored.setdefault((row.period_start, row.contract_id), []).append(row)
    for scope in rated:
        if not scope.has_quantities:
            continue
        for contract in _on_invoice(scope):
            contract_id = contract.bound.contract.id
            kept = _by_place(stored.pop((scope.rated.period.start, contract_id), []))
            counted = _by_place(contract.quantities)
            for place in sorted(kept.keys() | counted.keys(), key=str):
                if kept.get(place) != counted.get(place):
                    yield _finding(
                        head, f"contract {contract_id}: {place[0]} is not what its events come to"
                    )
    for period_start, contract_id in stored:
        yield _finding(
            head, f"it stores quantities of {period_start:%Y-%m-%d}, contract {contract_id}, alone"
        )


def _by_place(rows: Iterable[InvoiceQuantityRow | MeteredQuantity]) -> _Amounts:
    """Quantities and transactions of a place; how a read parted them makes no difference."""
    found: dict[_Place, tuple[Decimal, tuple[Point, ...]]] = {}
    for row in rows:
        place = (row.meter, row.model, row.dimensions, row.at)
        quantity, points = found.get(place, (_ZERO, ()))
        found[place] = (
            EXACT.add(quantity, row.quantity),
            tuple(sorted((*points, *row.transactions))),
        )
    return {place: amounts for place, amounts in found.items() if amounts != (_ZERO, ())}


def _lines(
    connection: sa.Connection,
    head: InvoiceRow,
    lines: Sequence[InvoiceLineRow],
    rated: Iterable[_Scope],
) -> Iterator[Finding]:
    left = {line.key: line for line in lines}
    in_currency = currency(head.currency)
    for scope in rated:
        start = scope.rated.period.start
        for contract in _on_invoice(scope):
            prefix = f"contract-{contract.bound.contract.id}/"
            before = billed_before(
                connection, head, contract_id=contract.bound.contract.id, period_start=start
            )
            found = {line.key: line for line in contract.rating.lines}
            for key in [*found, *(key for key in before if key not in found)]:
                kept = left.pop(f"{prefix}{key}@{start:%Y-%m-%d}", None)
                if kept is None and start == head.period_start:
                    kept = left.pop(f"{prefix}{key}", None)
                line = found.get(key)
                due_minor = due_on_line(
                    _ZERO if line is None else line.exact, before.get(key, 0), in_currency
                )
                if kept is not None:
                    yield from _line(head, kept, line, due_minor=due_minor)
                # Credit is settled on keys of its own, and is no line of rating.
                elif due_minor and (line is not None or not key.startswith(CREDIT_PREFIX)):
                    yield _finding(head, f"line {key} over {due_minor} minor units is missing")
    for key in left:
        yield _finding(head, f"line {key} is not rated from what the invoice names")


def _line(
    head: InvoiceRow, kept: InvoiceLineRow, rated: RatedLine | None, *, due_minor: int
) -> Iterator[Finding]:
    if kept.amount_minor != due_minor:
        yield _finding(head, f"line {kept.key} bills {kept.amount_minor}, not {due_minor}")
    if rated is None:
        return
    if kept.exact != rated.exact:
        yield _finding(
            head, f"line {kept.key} comes to {plain(rated.exact)}, not {plain(kept.exact)}"
        )
    said = (kept.kind, kept.meter, kept.unit, kept.quantity, _steps(kept), kept.by_model)
    if said != _said(rated):
        yield _finding(head, f"line {kept.key} says something else than what it is rated from")


def _steps(line: InvoiceLineRow) -> list[tuple[str | None, str | None, str | None]]:
    return [(step["step"], step["text"], step["amount"]) for step in line.explanation]


def _said(line: RatedLine) -> tuple[object, ...]:
    steps = [
        (step.step, step.text, None if step.amount is None else plain(step.amount))
        for step in line.explanation
    ]
    weights = [(model, plain(weight)) for model, weight in line.by_model]
    return (line.kind.value, line.meter, line.unit, line.quantity, steps, weights)


def _on_invoice(scope: _Scope) -> Iterator[RatedContract]:
    return (
        contract for contract in scope.rated.contracts if contract.bound.contract.id in scope.here
    )


def _finding(head: InvoiceRow, problem: str) -> Finding:
    return Finding(kind="invoice", subject=head.number or str(head.id), problem=problem)
