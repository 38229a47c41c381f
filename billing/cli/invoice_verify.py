"""`steelyard invoice verify`: rate issued invoices again from raw events, and compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, progress, show_json, show_nothing, show_table, show_text
from billing.errors import InvalidInput
from billing.operations.invoicing.verify_invoice import (
    InvoiceCheck,
    verify_invoice,
    verify_invoices,
)


def verify(
    *,
    invoice: Annotated[str | None, typer.Argument(metavar="INVOICE", help="Number or id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every issued invoice.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Rate issued invoices again from raw events; exit status 1 names what differs."""
    if everything == (invoice is not None):
        raise InvalidInput("which invoice?", field="invoice", remedy="name one, or use --all")
    with as_operator(snapshot=True) as connection, progress(hidden=as_json) as bar:
        checks: Iterable[InvoiceCheck] = (
            verify_invoices(connection)
            if invoice is None
            else (verify_invoice(connection, invoice),)
        )
        done = list(bar.track(checks, description="verifying", total=None))
    if as_json:
        show_json({"invoices": [_document(check) for check in done]})
    elif not done:
        show_nothing("No invoice was issued yet.", then="steelyard invoice issue --all")
    else:
        _show(done)
    if any(check.findings for check in done):
        raise typer.Exit(1)


def _document(check: InvoiceCheck) -> dict[str, object]:
    return {
        "id": str(check.invoice.id),
        "number": check.invoice.number,
        "from": _source(check),
        "lines": check.lines,
        "findings": [asdict(finding) for finding in check.findings],
    }


def _show(done: list[InvoiceCheck]) -> None:
    findings = [finding for check in done for finding in check.findings]
    if findings:
        show_table(
            "Not as it is rated",
            ("invoice", "problem"),
            [(finding.subject, finding.problem) for finding in findings],
        )
        return
    lines = sum(check.lines for check in done)
    kept = sum(not check.from_events for check in done)
    show_text(
        f"{len(done)} invoices, {lines} lines: rated again, they are the same.", style="green"
    )
    if kept:
        show_text(f"{kept} from stored quantities: their events have left the database.")


def _source(check: InvoiceCheck) -> str:
    return "events" if check.from_events else "stored quantities"
