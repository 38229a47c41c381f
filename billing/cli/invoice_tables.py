"""Invoices as tables, and the arithmetic of one as text that a person can redo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from billing.cli.invoice_documents import major
from billing.cli.output import amount, show_members, show_table, show_text, span
from billing.invoicing.document_kind import DocumentKind
from billing.invoicing.invoice import LineKind
from billing.money import EXACT, currency, plain, to_minor
from billing.operations.invoicing.explain_line import LineExplanation
from billing.operations.invoicing.read_invoices import InvoiceView
from billing.store.invoices import InvoiceLineRow, InvoiceRow


def show_invoices(rows: Sequence[InvoiceRow]) -> None:
    """Print invoices, one per row."""
    show_table(
        "Invoices (days in UTC)",
        ("invoice", "kind", "state", "tenant", "period", "currency", "#total", "due"),
        [
            (
                row.number or row.id,
                row.kind.replace("_", " "),
                row.state,
                row.tenant,
                f"{row.period_start:%Y-%m-%d} to {row.period_end:%Y-%m-%d}",
                row.currency,
                amount(major(row, row.total_minor)),
                f"{row.due_at:%Y-%m-%d}" if row.due_at else None,
            )
            for row in rows
        ],
    )


def show_invoice(view: InvoiceView, *, zone: str) -> None:
    """Print one invoice with its lines; its period in the tenant's zone."""
    head = view.invoice
    show_members(
        f"{_title(head)} {head.number or '(draft)'}",
        [
            ("tenant", head.tenant),
            ("from", head.legal_entity),
            ("state", head.state),
            ("billing period", span(head.period, zone)),
            ("issued", head.issued_at),
            ("due", head.due_at),
            ("paid", head.paid_at),
            ("id", head.id),
        ],
    )
    show_table(
        f"Lines ({head.currency})",
        ("#no", "description", "#quantity", "unit", "#amount"),
        [
            (
                line.ordinal,
                line.description,
                line.quantity if _counts(line) else None,
                line.unit if _counts(line) else None,
                amount(major(head, line.amount_minor)),
            )
            for line in view.lines
        ],
    )
    show_table(
        "",
        ("sum", f"#{head.currency}"),
        [
            ("subtotal", amount(major(head, head.subtotal_minor))),
            ("tax", amount(major(head, head.tax_minor))),
            ("total", amount(major(head, head.total_minor))),
            *(
                (f"paid with credit: {paid.source}", amount(EXACT.minus(paid.amount)))
                for paid in view.redeemed
            ),
            ("amount due", amount(major(head, head.amount_due_minor))),
        ],
    )


def show_explanation(
    view: InvoiceView, explained: Mapping[str, LineExplanation], *, zone: str
) -> None:
    """Print the arithmetic of every line and of the sums.

    Args:
        explained: each line's explanation, by the line's key.
    """
    head = view.invoice
    show_text(f"Invoice {head.number or '(draft)'} of {head.tenant}", style="bold")
    show_text(f"Usage of {span(head.period, zone)}, as recorded up to epoch {head.watermark}.")
    for contract in head.inputs.get("contracts", ()):
        terms = f"{contract['plan']}@{contract['version']}"
        show_text(f"Contract {contract['id']} on plan {terms}.")
    for line in view.lines:
        show_steps(head, explained[line.key])
    _show_sums(view)


def show_steps(head: InvoiceRow, explained: LineExplanation) -> None:
    """Print the arithmetic of one line."""
    line, before_minor = explained.line, explained.billed_before_minor
    show_text(f"\n{line.ordinal}. {line.description}", style="bold")
    show_text(f"   {line.key}", style="dim")
    for step in line.explanation:
        show_text(f"   {step['text']}")
    if line.kind == LineKind.RESIDUAL:
        carried = f"{plain(head.residual_before)} {head.currency}"
        show_text(f"   {carried} was left by earlier invoices; its whole cents are billed")
    if before_minor:
        rounded = amount(major(head, to_minor(explained.exact, currency(head.currency))))
        billed = amount(major(head, before_minor))
        show_text(f"   {rounded} since the period began, less {billed} that was billed before")
    show_text(f"   = {amount(major(head, line.amount_minor), head.currency)}")


def _show_sums(view: InvoiceView) -> None:
    head = view.invoice
    subtotal = major(head, head.subtotal_minor)
    terms = [amount(major(head, line.amount_minor)) for line in view.lines] or ["0"]
    show_text("\nSums", style="bold")
    show_text(f"   {' + '.join(terms)} = {amount(subtotal, head.currency)} subtotal")
    show_text(
        f"   {amount(subtotal)} + {amount(major(head, head.tax_minor))} tax = "
        f"{amount(major(head, head.total_minor), head.currency)} total"
    )
    if view.redeemed:
        paid = " - ".join(amount(row.amount) for row in view.redeemed)
        due = amount(major(head, head.amount_due_minor), head.currency)
        show_text(
            f"   {amount(major(head, head.total_minor))} - {paid} paid with credit = {due} due"
        )
    accrued = _accrued(head, subtotal)
    credited = any(line.kind == LineKind.CREDIT for line in view.lines)
    earned = "earned less credit, exactly" if credited else "earned exactly"
    show_text(
        f"   {plain(head.residual_before)} carried in + {plain(accrued)} {earned} "
        f"- {amount(subtotal)} billed = {plain(head.residual_after)} carried on"
    )


def _accrued(head: InvoiceRow, subtotal: Decimal) -> Decimal:
    """What the lines earned less what credit paid of them by day, those too small to bill too."""
    return EXACT.add(EXACT.subtract(head.residual_after, head.residual_before), subtotal)


def _title(head: InvoiceRow) -> str:
    return "Credit note" if head.kind == DocumentKind.CREDIT_NOTE else "Invoice"


def _counts(line: InvoiceLineRow) -> bool:
    return line.meter is not None
