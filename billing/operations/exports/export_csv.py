"""Export issued invoices and the money journal of a period as CSV text."""

from __future__ import annotations

import sqlalchemy as sa

from billing.exports.csv_text import csv_text
from billing.exports.hledger import hledger_journal
from billing.exports.invoice_rows import INVOICE_COLUMNS, ExportedInvoice, invoice_rows
from billing.exports.journal_rows import Names, journal_csv
from billing.invoicing.invoice import InvoiceLine, InvoiceTotals, LineKind
from billing.money import currency
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.period import Period
from billing.store import invoices as invoice_store
from billing.store import ledger
from billing.store import tenancy as tenancy_store


def export_invoices(connection: sa.Connection, *, period: Period) -> str:
    """Issued invoices whose billing period overlaps `period`, one CSV row per line.

    Raises:
        TieOutFailed: an invoice does not add up; nothing is exported.
    """
    issued = [
        row
        for row in invoice_store.invoices(connection, tenant_id=None, period=period)
        if row.number is not None
    ]
    ordered = sorted(issued, key=lambda row: (row.legal_entity, row.number or ""))
    views = [require_invoice(connection, str(row.id), tenant_id=None) for row in ordered]
    return csv_text(INVOICE_COLUMNS, invoice_rows(_exported(view) for view in views))


def export_journal(connection: sa.Connection, *, period: Period) -> str:
    """The journal of a period, one CSV row per posting at 12 decimals.

    Raises:
        LedgerError, TieOutFailed: a transaction does not balance; nothing is exported.
    """
    return journal_csv(ledger.journal(connection, period=period), _names(connection))


def export_hledger(connection: sa.Connection, *, period: Period) -> str:
    """The journal of a period as plain text for hledger, at 12 decimals."""
    return hledger_journal(ledger.journal(connection, period=period), _names(connection))


def _names(connection: sa.Connection) -> Names:
    return Names(
        legal_entities={row.id: row.slug for row in tenancy_store.legal_entities(connection)},
        tenants={row.id: row.slug for row in tenancy_store.tenants(connection)},
    )


def _exported(view: InvoiceView) -> ExportedInvoice:
    head = view.invoice
    assert head.number is not None
    assert head.issued_at is not None
    assert head.due_at is not None
    return ExportedInvoice(
        number=head.number,
        tenant=head.tenant,
        legal_entity=head.legal_entity,
        issued_at=head.issued_at,
        due_at=head.due_at,
        period=head.period,
        currency=currency(head.currency),
        lines=tuple(
            InvoiceLine(
                key=line.key,
                description=line.description,
                quantity=line.quantity if line.meter else None,
                exact=line.exact,
                amount_minor=line.amount_minor,
                kind=LineKind(line.kind),
            )
            for line in view.lines
        ),
        totals=InvoiceTotals(
            subtotal_minor=head.subtotal_minor,
            tax_minor=head.tax_minor,
            total_minor=head.total_minor,
            amount_due_minor=head.amount_due_minor,
        ),
    )
