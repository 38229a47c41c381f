"""Exported invoices: one row per line, sums that hold, columns that stay."""

from __future__ import annotations

import csv
import dataclasses
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from billing.errors import TieOutFailed
from billing.exports.csv_text import csv_text
from billing.exports.invoice_rows import INVOICE_COLUMNS, ExportedInvoice, invoice_rows
from billing.invoicing.invoice import LineBasis, draft_invoice
from billing.money import CURRENCIES
from billing.period import Period

NOVEMBER = Period(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))


def invoice(
    *amounts: str, code: str = "USD", description: str = "Output tokens"
) -> ExportedInvoice:
    currency = CURRENCIES[code]
    bases = [
        LineBasis(
            key=f"line-{n}",
            description=description,
            quantity=Decimal("1E+6"),
            exact=Decimal(amount),
        )
        for n, amount in enumerate(amounts)
    ]
    draft = draft_invoice(bases, currency=currency)
    return ExportedInvoice(
        number="INV-000001",
        tenant="acme",
        legal_entity="default",
        issued_at=datetime(2026, 12, 1, 8, tzinfo=UTC),
        due_at=datetime(2026, 12, 15, 8, tzinfo=UTC),
        period=NOVEMBER,
        currency=currency,
        lines=draft.lines,
        totals=draft.totals,
    )


def read_back(*invoices: ExportedInvoice) -> list[dict[str, str]]:
    text = csv_text(INVOICE_COLUMNS, invoice_rows(invoices))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_R1_lines_of_the_file_add_up_to_the_totals_of_the_file():
    rows = read_back(invoice("10.004", "5.0061", "20"))
    assert [row["amount"] for row in rows] == ["10.00", "5.01", "20.00"]
    assert {row["invoice_total"] for row in rows} == {"35.01"}
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal(rows[0]["invoice_subtotal"])
    assert [row["exact"] for row in rows] == [
        "10.004000000000",
        "5.006100000000",
        "20.000000000000",
    ]
    assert rows[0]["quantity"] == "1000000"


def test_amounts_have_the_decimals_of_their_currency():
    (row,) = read_back(invoice("1234.5", code="JPY"))
    assert (row["amount"], row["invoice_total"], row["currency"]) == ("1235", "1235", "JPY")


def test_an_invoice_without_lines_is_not_lost():
    (row,) = read_back(invoice())
    assert (row["invoice_number"], row["line_key"], row["amount"]) == ("INV-000001", "", "")
    assert row["invoice_total"] == "0.00"


def test_a_description_is_text_and_never_a_formula():
    (row,) = read_back(invoice("1", description='=cmd|"/c calc"!A1'))
    assert row["description"] == '\'=cmd|"/c calc"!A1'


def test_R1_an_invoice_that_does_not_add_up_is_not_exported():
    good = invoice("1", "2")
    missing_line = dataclasses.replace(good, lines=good.lines[:1])
    with pytest.raises(TieOutFailed) as failed:
        read_back(missing_line)
    assert failed.value.field == "INV-000001.subtotal"


def test_columns_are_those_that_imports_rely_on():
    assert ",".join(INVOICE_COLUMNS) == (
        "invoice_number,tenant,legal_entity,issued_at,due_at,period_start,period_end,currency,"
        "line_key,line_kind,description,quantity,exact,amount,"
        "invoice_subtotal,invoice_tax,invoice_total,invoice_amount_due"
    )
