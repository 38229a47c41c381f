"""JSON documents of invoices: stable keys, amounts and quantities as text."""

from __future__ import annotations

from decimal import Decimal

from billing.cli.documents import Json, period_document
from billing.invoicing.invoice import LineKind
from billing.money import currency, from_minor, plain
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.store.invoices import InvoiceLineRow, InvoiceRow


def invoice_document(row: InvoiceRow) -> Json:
    """An invoice without its lines."""
    return {
        "id": str(row.id),
        "number": row.number,
        "kind": row.kind,
        "ordinal": row.ordinal,
        "state": row.state,
        "tenant": row.tenant,
        "legal_entity": row.legal_entity,
        "currency": row.currency,
        "period": period_document(row.period),
        "subtotal": f"{major(row, row.subtotal_minor):f}",
        "tax": f"{major(row, row.tax_minor):f}",
        "total": f"{major(row, row.total_minor):f}",
        "amount_due": f"{major(row, row.amount_due_minor):f}",
        "residual_before": plain(row.residual_before),
        "residual_after": plain(row.residual_after),
        "watermark": row.watermark,
        "drafted_at": row.drafted_at,
        "issued_at": row.issued_at,
        "due_at": row.due_at,
        "paid_at": row.paid_at,
    }


def invoice_view_document(view: InvoiceView) -> Json:
    """An invoice with its lines and the versions of what it was made from."""
    return {
        **invoice_document(view.invoice),
        "inputs": view.invoice.inputs,
        "lines": [line_document(view.invoice, line) for line in view.lines],
    }


def line_document(row: InvoiceRow, line: InvoiceLineRow) -> Json:
    """A line of an invoice."""
    return {
        "ordinal": line.ordinal,
        "kind": line.kind,
        "key": line.key,
        "contract_id": line.contract_id,
        "description": line.description,
        "meter": line.meter,
        "unit": line.unit,
        "quantity": plain(line.quantity) if LineKind(line.kind).is_rated else None,
        "exact": plain(line.exact),
        "amount": f"{major(row, line.amount_minor):f}",
        "explanation": line.explanation,
        "by_model": [{"model": model, "weight": weight} for model, weight in line.by_model],
    }


def major(row: InvoiceRow, minor: int) -> Decimal:
    """Minor units of an invoice's currency in major units, with all its decimals."""
    return from_minor(minor, currency(row.currency))
