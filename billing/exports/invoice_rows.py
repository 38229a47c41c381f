"""Issued invoices as rows: one per line, with the invoice's own figures on each of them.

Decides: the columns, and that an invoice whose lines do not add up to its totals is not exported.
Amounts are major units with the currency's decimals; exact amounts have 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from billing.errors import TieOutFailed
from billing.exports.csv_text import Cell
from billing.invoicing.invoice import InvoiceLine, InvoiceTotals, check_sums
from billing.money import Currency, from_minor, plain
from billing.period import Period

INVOICE_COLUMNS = (
    "invoice_number",
    "tenant",
    "legal_entity",
    "issued_at",
    "due_at",
    "period_start",
    "period_end",
    "currency",
    "line_key",
    "line_kind",
    "description",
    "quantity",
    "exact",
    "amount",
    "invoice_subtotal",
    "invoice_tax",
    "invoice_total",
    "invoice_amount_due",
)
"""Columns are only ever added at the end: people's imports count on their places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedInvoice:
    """An issued invoice as finance reads it.

    Attributes:
        tenant: slug of the bill-to.
        legal_entity: slug of the issuer.
        period: the billing period.
    """

    number: str
    tenant: str
    legal_entity: str
    issued_at: datetime
    due_at: datetime
    period: Period
    currency: Currency
    lines: tuple[InvoiceLine, ...]
    totals: InvoiceTotals


def invoice_rows(invoices: Iterable[ExportedInvoice]) -> Iterator[tuple[Cell, ...]]:
    """Rows of `INVOICE_COLUMNS`, in the given order. An invoice without lines has one row.

    Raises:
        TieOutFailed: lines and totals of an invoice differ.
    """
    for invoice in invoices:
        _require_sums(invoice)
        totals = _totals(invoice)
        lines = [_line(line, invoice.currency) for line in invoice.lines] or [(None,) * 6]
        for line in lines:
            yield (*_head(invoice), *line, *totals)


def _require_sums(invoice: ExportedInvoice) -> None:
    try:
        check_sums([line.amount_minor for line in invoice.lines], invoice.totals)
    except TieOutFailed as failed:
        field = f"{invoice.number}.{failed.field}"
        raise TieOutFailed(failed.message, field=field) from None


def _head(invoice: ExportedInvoice) -> tuple[Cell, ...]:
    return (
        invoice.number,
        invoice.tenant,
        invoice.legal_entity,
        invoice.issued_at,
        invoice.due_at,
        invoice.period.start,
        invoice.period.end,
        invoice.currency.code,
    )


def _line(line: InvoiceLine, currency: Currency) -> tuple[Cell, ...]:
    return (
        line.key,
        line.kind.value,
        line.description,
        None if line.quantity is None else Decimal(plain(line.quantity)),
        line.exact,
        from_minor(line.amount_minor, currency),
    )


def _totals(invoice: ExportedInvoice) -> tuple[Cell, ...]:
    totals = invoice.totals
    figures = (
        totals.subtotal_minor,
        totals.tax_minor,
        totals.total_minor,
        totals.amount_due_minor,
    )
    return tuple(from_minor(minor, invoice.currency) for minor in figures)
