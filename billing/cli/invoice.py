"""`steelyard invoice`: from a draft to a settled invoice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import sqlalchemy as sa
import typer

from billing.cli.connect import as_operator, connected
from billing.cli.invoice_documents import invoice_document, invoice_view_document, major
from billing.cli.invoice_explain import explain
from billing.cli.invoice_tables import show_invoice, show_invoices
from billing.cli.invoice_verify import verify
from billing.cli.output import (
    JsonFlag,
    amount,
    progress,
    show_json,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.when import billing_month, clock
from billing.errors import InvalidInput, SteelyardError
from billing.exit_status import REFUSED
from billing.ledger.account import AccountCode
from billing.money import currency, exact_decimal, to_minor
from billing.operations.catalog.contracts import list_contracts
from billing.operations.invoicing.draft_invoice import draft_invoice
from billing.operations.invoicing.issue_advance import issue_advance
from billing.operations.invoicing.issue_corrections import issue_corrections
from billing.operations.invoicing.issue_drafts import EnqueueMirror
from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.invoicing.read_invoices import (
    InvoiceView,
    list_invoices,
    require_invoice,
)
from billing.operations.payments.mirror_invoice import enqueue_mirror
from billing.operations.payments.receive_payment import open_minor, receive_payment
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.period import parse_month, zone
from billing.settings import read_settings
from billing.store.database import Database, Role
from billing.store.invoices import InvoiceRow
from billing.tenancy.tenant import Tenant

app = typer.Typer()

_TENANT = typer.Option(help="Slug of the tenant.")
_MONTH = typer.Option(
    metavar="YYYY-MM", help="The tenant's billing period that begins in this month, in its zone."
)
_INVOICE = typer.Argument(metavar="INVOICE", help="Number or id.")


class PaidInto(StrEnum):
    """Where money arrived."""

    BANK = "bank"
    STRIPE = "stripe"


_ACCOUNTS = {PaidInto.BANK: AccountCode.BANK, PaidInto.STRIPE: AccountCode.STRIPE_CLEARING}


@app.command(epilog="Example: steelyard invoice draft --tenant acme --period 2026-11")
def draft(
    *,
    tenant: Annotated[str, _TENANT],
    period: Annotated[str, _MONTH],
    as_json: JsonFlag = False,
) -> None:
    """Draft the invoice of a billing period, over or not; a new draft replaces the old one."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        row = draft_invoice(
            connection, tenant=owner, period=billing_month(period, owner), now=clock()
        )
        view = require_invoice(connection, str(row.id), tenant_id=owner.id)
    _show_view(view, owner.zone, as_json=as_json)


@app.command(
    epilog="Example: steelyard invoice issue --tenant acme --period 2026-10\n\n"
    "Example: steelyard invoice issue --all --period 2026-10"
)
def issue(
    *,
    period: Annotated[str, _MONTH],
    tenant: Annotated[str | None, _TENANT] = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Every tenant with a contract in the period.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Issue the invoice of a billing period that is over; a second run returns the same invoice."""
    if everybody == (tenant is not None):
        raise InvalidInput("whose invoice?", field="tenant", remedy="use --tenant SLUG or --all")
    mirror = enqueue_mirror if read_settings().stripe_api_key is not None else None
    with connected() as database:
        if tenant is None:
            _issue_all(database, period, mirror, as_json=as_json)
            return
        with database.transaction(Role.OPERATOR) as connection:
            owner = require_tenant(connection, tenant)
            row = _issue(connection, owner, period, mirror, now=clock())
            view = require_invoice(connection, str(row.id), tenant_id=owner.id)
    _show_view(view, owner.zone, as_json=as_json)


@app.command(
    epilog="Example: steelyard invoice correct --tenant acme\n\n"
    "Example: steelyard invoice correct --all"
)
def correct(
    *,
    tenant: Annotated[str | None, _TENANT] = None,
    everybody: Annotated[bool, typer.Option("--all", help="Every tenant.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Issue what changed in invoiced periods now: an invoice of corrections, or a credit note."""
    if everybody == (tenant is not None):
        raise InvalidInput("whose invoices?", field="tenant", remedy="use --tenant SLUG or --all")
    mirror = enqueue_mirror if read_settings().stripe_api_key is not None else None
    with connected() as database:
        with database.transaction(Role.OPERATOR) as connection:
            owners = list_tenants(connection) if everybody else [_named(connection, tenant)]
        outcomes: list[_Outcome] = []
        with progress(hidden=as_json) as bar:
            for owner in bar.track(owners, description="correcting"):
                outcomes += _correct(database, owner, mirror)
    _show_run(
        outcomes,
        nothing="Nothing changed in invoiced periods.",
        then="steelyard invoice list",
        as_json=as_json,
    )


@app.command(epilog="Example: steelyard invoice advance --tenant acme --period 2026-11")
def advance(
    *,
    tenant: Annotated[str, _TENANT],
    period: Annotated[str, _MONTH],
    as_json: JsonFlag = False,
) -> None:
    """Bill a running period's fees in advance, such as those of a contract's first period."""
    mirror = enqueue_mirror if read_settings().stripe_api_key is not None else None
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        rows = issue_advance(
            connection,
            tenant=owner,
            period=billing_month(period, owner),
            enqueue_mirror=mirror,
            now=clock(),
        )
    _show_run(
        [_Outcome(tenant=owner.slug, issued=row) for row in rows],
        nothing="No fees in advance are open.",
        then="steelyard invoice list",
        as_json=as_json,
    )


@app.command("list", epilog="Example: steelyard invoice list --tenant acme --period 2026-10")
def list_all(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    period: Annotated[
        str | None,
        typer.Option(metavar="YYYY-MM", help="Of the tenant's billing month; else a UTC month."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List invoices, newest first."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant) if tenant is not None else None
        wanted = None
        if period is not None:
            wanted = billing_month(period, owner) if owner else parse_month(period, zone("UTC"))
        rows = list_invoices(connection, tenant_id=owner.id if owner else None, period=wanted)
    if as_json:
        show_json({"invoices": [invoice_document(row) for row in rows]})
    elif not rows:
        show_nothing("No invoices.", then="steelyard invoice draft --tenant SLUG --period YYYY-MM")
    else:
        show_invoices(rows)


@app.command(epilog="Example: steelyard invoice show INV-000001")
def show(invoice: Annotated[str, _INVOICE], as_json: JsonFlag = False) -> None:
    """Show an invoice with its lines."""
    with as_operator() as connection:
        view = require_invoice(connection, invoice, tenant_id=None)
        owner = require_tenant(connection, view.invoice.tenant)
    _show_view(view, owner.zone, as_json=as_json)


app.command(
    epilog="Example: steelyard invoice explain INV-000001\n\n"
    "Example: steelyard invoice explain INV-000001 --line 2 --usage day\n\n"
    "Example: steelyard invoice explain INV-000001 --line 2 --events --limit 20"
)(explain)


app.command(
    epilog="Example: steelyard invoice verify INV-000001\n\n"
    "Example: steelyard invoice verify --all --json"
)(verify)


@app.command(epilog="Example: steelyard invoice pay INV-000001 --reference 'wire 7731'")
def pay(
    *,
    invoice: Annotated[str, _INVOICE],
    reference: Annotated[
        str, typer.Option(help="Of the transfer: the same reference is posted once.")
    ],
    paid: Annotated[
        str | None,
        typer.Option("--amount", help="In major units like 12.34; all that is open if left out."),
    ] = None,
    into: Annotated[PaidInto, typer.Option(help="Where the money arrived.")] = PaidInto.BANK,
    as_json: JsonFlag = False,
) -> None:
    """Post a payment that was received for an issued invoice."""
    with as_operator() as connection:
        head = require_invoice(connection, invoice, tenant_id=None).invoice
        row = receive_payment(
            connection,
            invoice=str(head.id),
            amount_minor=_paid_minor(head, paid),
            into=_ACCOUNTS[into],
            idempotency_key=f"{head.number}/{reference}",
            now=clock(),
        )
        left = major(row, open_minor(connection, row))
    if as_json:
        show_json({**invoice_document(row), "open": f"{left:f}"})
    else:
        still_open = amount(left, row.currency)
        show_text(f"Invoice {row.number} is {row.state}; {still_open} is open.")


def _paid_minor(head: InvoiceRow, text: str | None) -> int | None:
    if text is None:
        return None
    in_currency = currency(head.currency)
    exact = exact_decimal(text, field="amount", decimals_max=in_currency.decimals)
    return to_minor(exact, in_currency)


def _issue(
    connection: sa.Connection,
    tenant: Tenant,
    period: str,
    mirror: EnqueueMirror | None,
    *,
    now: datetime,
) -> InvoiceRow:
    return issue_invoice(
        connection,
        tenant=tenant,
        period=billing_month(period, tenant),
        enqueue_mirror=mirror,
        now=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of one tenant's invoice in a run over all."""

    tenant: str
    issued: InvoiceRow | None = None
    refused: SteelyardError | None = None


def _named(connection: sa.Connection, tenant: str | None) -> Tenant:
    assert tenant is not None
    return require_tenant(connection, tenant)


def _correct(database: Database, owner: Tenant, mirror: EnqueueMirror | None) -> list[_Outcome]:
    try:
        with database.transaction(Role.OPERATOR) as connection:
            rows = issue_corrections(connection, tenant=owner, enqueue_mirror=mirror, now=clock())
    except SteelyardError as refused:
        return [_Outcome(tenant=owner.slug, refused=refused)]
    return [_Outcome(tenant=owner.slug, issued=row) for row in rows]


def _issue_all(
    database: Database, period: str, mirror: EnqueueMirror | None, *, as_json: bool
) -> None:
    """Issue tenant by tenant, each in a transaction of its own: one refusal stops nobody else."""
    with database.transaction(Role.OPERATOR) as connection:
        tenants = _tenants_with_contract(connection, period)
    outcomes: list[_Outcome] = []
    with progress(hidden=as_json) as bar:
        for tenant in bar.track(tenants, description="issuing"):
            try:
                with database.transaction(Role.OPERATOR) as connection:
                    row = _issue(connection, tenant, period, mirror, now=clock())
                outcomes.append(_Outcome(tenant=tenant.slug, issued=row))
            except SteelyardError as refused:
                outcomes.append(_Outcome(tenant=tenant.slug, refused=refused))
    _show_run(
        outcomes,
        nothing="No tenant has a contract in this period.",
        then="steelyard contract bind --tenant SLUG --plan PLAN --from DATE",
        as_json=as_json,
    )


def _show_run(outcomes: Sequence[_Outcome], *, nothing: str, then: str, as_json: bool) -> None:
    if as_json:
        show_json(_summary(outcomes))
    elif not outcomes:
        show_nothing(nothing, then=then)
    else:
        _show_summary(outcomes)
    if any(outcome.refused for outcome in outcomes):
        raise typer.Exit(REFUSED)


def _tenants_with_contract(connection: sa.Connection, period: str) -> list[Tenant]:
    contracts = list_contracts(connection)
    return [
        tenant
        for tenant in list_tenants(connection)
        if any(
            contract.tenant_id == tenant.id
            and contract.segment(billing_month(period, tenant)) is not None
            for contract in contracts
        )
    ]


def _summary(outcomes: Sequence[_Outcome]) -> dict[str, object]:
    return {
        "invoices": [invoice_document(each.issued) for each in outcomes if each.issued],
        "refused": [
            {
                "tenant": each.tenant,
                "code": each.refused.code,
                "message": each.refused.message,
                "remedy": each.refused.remedy,
            }
            for each in outcomes
            if each.refused
        ],
    }


def _show_summary(outcomes: Sequence[_Outcome]) -> None:
    issued = [each.issued for each in outcomes if each.issued]
    refused = [(each.tenant, each.refused) for each in outcomes if each.refused]
    if issued:
        show_invoices(issued)
    if refused:
        show_table(
            "Refused: nothing was written for these",
            ("tenant", "reason", "try"),
            [(tenant, error.message, error.remedy) for tenant, error in refused],
        )
    show_text(f"{len(issued)} issued, {len(refused)} refused.")


def _show_view(view: InvoiceView, in_zone: str, *, as_json: bool) -> None:
    if as_json:
        show_json(invoice_view_document(view))
        return
    show_invoice(view, zone=in_zone)
    unrated = view.invoice.inputs.get("unrated", ())
    if unrated:
        show_table(
            "Usage that no charge prices: it blocks the invoice",
            ("meter", "model", "#quantity"),
            [(row["meter"], row["model"], row["quantity"]) for row in unrated],
        )
    due = view.invoice.inputs.get("due_at_end", ())
    if due:
        show_table(
            "Due at the end of the billing period if nothing more is used",
            ("description", "because", f"#{view.invoice.currency}"),
            [(row["description"], row["text"], row["amount"]) for row in due],
        )
