"""`steelyard invoice explain`: from an invoice to its lines, their usage, and single requests.

Prints every figure with the sum that leads to it, and compares the levels. Where two differ, it
says so last and ends with a failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated

import sqlalchemy as sa
import typer

from billing.cli.connect import as_operator
from billing.cli.documents import Json, period_document
from billing.cli.invoice_documents import invoice_view_document, line_document, major
from billing.cli.invoice_tables import show_explanation, show_steps
from billing.cli.output import JsonFlag, show_json, show_table, show_text, span
from billing.cli.when import FromOption, ToOption, chosen_period
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.exports.csv_text import instant_text
from billing.money import plain
from billing.operations.invoicing.explain_line import (
    Check,
    LineEvents,
    LineExplanation,
    LineUsage,
    events_of_line,
    explain_line,
    explain_lines,
    usage_of_line,
)
from billing.operations.invoicing.read_invoices import InvoiceView, require_invoice
from billing.operations.tenancy.tenants import require_tenant
from billing.rating.step import figure


class UsageBy(StrEnum):
    """How wide a row of usage is."""

    DAY = "day"
    BUCKET = "bucket"


def explain(
    *,
    invoice: Annotated[str, typer.Argument(metavar="INVOICE", help="Number or id.")],
    line: Annotated[
        str | None, typer.Option(metavar="KEY", help="One line, by its key or its number.")
    ] = None,
    usage: Annotated[
        UsageBy | None,
        typer.Option(help="Show the line's usage, by day or by bucket of 15 minutes."),
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Show the requests behind the line.")
    ] = False,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option(help="Requests on a page.")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="REQUEST", help="Go on behind this request.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the arithmetic of every line, so that a person can redo it; or what is behind one.

    Fails if two figures that must be equal are not.
    """
    if line is None and (usage is not None or events):
        raise InvalidInput("of which line?", field="line", remedy="name it with --line")
    for name, given in {"from": since, "to": until, "after": after}.items():
        if given is not None and not events:
            raise InvalidInput("chooses among requests", field=name, remedy="add --events")
    with as_operator() as connection:
        view = require_invoice(connection, invoice, tenant_id=None)
        owner = require_tenant(connection, view.invoice.tenant)
        chosen = None
        if since is not None or until is not None:
            chosen = chosen_period(period=None, since=since, until=until, in_zone=owner.zone)
        if line is None:
            checks = _explain_all(connection, view, owner.zone, as_json=as_json)
        elif events:
            page = events_of_line(
                connection,
                tenant_id=None,
                invoice=invoice,
                line=line,
                period=chosen,
                after=after,
                limit=limit,
            )
            checks = _show_events(page, as_json=as_json)
        elif usage is not None:
            rows = usage_of_line(
                connection, tenant_id=None, invoice=invoice, line=line, group=usage.value
            )
            checks = _show_usage(rows, as_json=as_json)
        else:
            found = explain_line(connection, tenant_id=None, invoice=invoice, line=line)
            checks = _explain_one(found, owner.zone, as_json=as_json)
    _conclude(checks, as_json=as_json)


def _explain_all(
    connection: sa.Connection, view: InvoiceView, in_zone: str, *, as_json: bool
) -> tuple[Check, ...]:
    found = explain_lines(connection, view)
    checks = tuple(check for each in found for check in each.checks)
    if as_json:
        show_json({**invoice_view_document(view), "checks": _check_documents(checks)})
    else:
        show_explanation(view, {each.line.key: each for each in found}, zone=in_zone)
    return checks


def _explain_one(found: LineExplanation, in_zone: str, *, as_json: bool) -> tuple[Check, ...]:
    head = found.invoice
    if as_json:
        show_json(
            {
                **line_document(head, found.line),
                "plan": found.plan,
                "period": period_document(found.period),
                "watermark": found.watermark,
                "billed_before": f"{major(head, found.billed_before_minor):f}",
                "counts": found.counts,
                "checks": _check_documents(found.checks),
            }
        )
        return found.checks
    show_text(f"Usage of {span(found.period, in_zone)}, as recorded up to epoch {found.watermark}.")
    if found.plan is not None:
        show_text(f"Contract {found.line.contract_id} on plan {found.plan}.")
    show_steps(head, found)
    return found.checks


def _show_usage(found: LineUsage, *, as_json: bool) -> tuple[Check, ...]:
    if as_json:
        show_json(
            {
                "key": found.line.key,
                "source": found.source,
                "usage": [
                    {
                        "start": instant_text(row.start),
                        "model": row.model,
                        "quantity": plain(row.quantity),
                        "events": row.events,
                    }
                    for row in found.rows
                ],
                "checks": _check_documents(found.checks),
            }
        )
    else:
        show_table(
            f"{found.line.description}: usage, from {found.source}",
            ("from", "model", f"#{found.line.unit}", "#events"),
            [(row.start, row.model, row.quantity, row.events) for row in found.rows],
        )
    return found.checks


def _show_events(found: LineEvents, *, as_json: bool) -> tuple[Check, ...]:
    following = None if found.following is None else f"req_{found.following.hex}"
    if as_json:
        show_json(
            {
                "key": found.line.key,
                "period": period_document(found.period),
                "quantity": None if found.quantity is None else plain(found.quantity),
                "events": [
                    {
                        "request_id": f"req_{event.id.hex}",
                        "occurred_at": instant_text(event.occurred_at),
                        "model": event.model,
                        "quantity": plain(event.quantity),
                        "estimated": event.estimated,
                    }
                    for event in found.events
                ],
                "next": following,
                "checks": _check_documents(found.checks),
            }
        )
        return found.checks
    show_table(
        f"{found.line.description}: requests",
        ("request", "at", "model", f"#{found.line.unit}", "estimated"),
        [
            (
                f"req_{event.id.hex}",
                event.occurred_at,
                event.model,
                event.quantity,
                "yes" if event.estimated else None,
            )
            for event in found.events
        ],
    )
    if found.quantity is not None:
        show_text(f"All requests, on this page or not: {figure(found.quantity)}")
    if following is not None:
        show_text(f"There are more: --after {following}")
    return found.checks


def _check_documents(checks: Iterable[Check]) -> list[Json]:
    return [
        {
            "name": check.name,
            "stated": plain(check.stated),
            "found": plain(check.found),
            "agrees": check.agrees,
        }
        for check in checks
    ]


def _conclude(checks: Sequence[Check], *, as_json: bool) -> None:
    """Say whether all levels agree; a difference is a failure for machines, too."""
    wrong = [check for check in checks if not check.agrees]
    if not as_json:
        for check in wrong:
            show_text(
                f"MISMATCH: {check.name}: {plain(check.stated)} stated, {plain(check.found)} found",
                style="bold red",
            )
        if checks and not wrong:
            show_text(f"Checked: {len(checks)} figures agree with what they are made from.")
    if wrong:
        raise typer.Exit(REFUSED)
