"""`steelyard tenant`: tenants."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.contract import contract_rows
from billing.cli.documents import (
    contract_document,
    key_document,
    period_document,
    tenant_document,
)
from billing.cli.invoice_documents import invoice_document
from billing.cli.invoice_tables import show_invoices
from billing.cli.key import show_keys
from billing.cli.output import (
    JsonFlag,
    show_document,
    show_json,
    show_members,
    show_nothing,
    show_table,
    span,
)
from billing.cli.when import clock
from billing.operations.catalog.contracts import list_contracts
from billing.operations.invoicing.read_invoices import list_invoices
from billing.operations.tenancy.keys import list_keys
from billing.operations.tenancy.tenants import create_tenant, list_tenants, require_tenant

app = typer.Typer()

CREATE = "steelyard tenant create acme --name 'Acme Inc'"


@app.command(epilog=f"Example: {CREATE} --zone Europe/Paris")
def create(
    *,
    slug: Annotated[str, typer.Argument(help="Its name in commands, files and the API.")],
    name: Annotated[str, typer.Option(help="Its name on invoices.")],
    entity: Annotated[
        str | None, typer.Option(help="Slug of who invoices it; needed where there are several.")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="IANA zone of its billing calendar; the legal entity's.")
    ] = None,
    anchor_day: Annotated[
        int, typer.Option(help="Day of the month on which its billing periods begin.")
    ] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Create a tenant with its default project."""
    with as_operator() as connection:
        tenant = create_tenant(
            connection,
            slug=slug,
            name=name,
            legal_entity=entity,
            zone_name=zone,
            anchor_day=anchor_day,
            now=clock(),
        )
    show_document(f"Tenant {tenant.slug}", tenant_document(tenant), as_json=as_json)
    show_nothing(
        "It has no contract yet.", then=f"steelyard contract bind --tenant {slug} --plan PLAN"
    )


@app.command("list", epilog="Example: steelyard tenant list --json")
def list_all(as_json: JsonFlag = False) -> None:
    """List tenants."""
    with as_operator() as connection:
        tenants = list_tenants(connection)
    if as_json:
        show_json({"tenants": [tenant_document(tenant) for tenant in tenants]})
    elif not tenants:
        show_nothing("No tenants yet.", then=CREATE)
    else:
        show_table(
            "Tenants",
            ("slug", "name", "legal entity", "zone", "#anchor day"),
            [(t.slug, t.name, t.legal_entity, t.zone, t.anchor_day) for t in tenants],
        )


@app.command(epilog="Example: steelyard tenant show acme")
def show(
    *, slug: Annotated[str, typer.Argument(help="Slug of the tenant.")], as_json: JsonFlag = False
) -> None:
    """Show a tenant with its contracts, keys and invoices."""
    with as_operator() as connection:
        tenant = require_tenant(connection, slug)
        contracts = list_contracts(connection, tenant_id=tenant.id)
        keys = list_keys(connection, tenant_id=tenant.id)
        invoices = list_invoices(connection, tenant_id=tenant.id)
    period = tenant.billing_period(clock())
    if as_json:
        show_json(
            {
                **tenant_document(tenant),
                "billing_period": period_document(period),
                "contracts": [contract_document(each, slug) for each in contracts],
                "keys": [key_document(key) for key in keys],
                "invoices": [invoice_document(row) for row in invoices],
            }
        )
        return
    show_members(
        f"Tenant {tenant.slug}",
        [*tenant_document(tenant).items(), ("billing period", span(period, tenant.zone))],
    )
    if contracts:
        show_table("Contracts", *contract_rows(contracts, {tenant.id: slug}))
    if keys:
        show_keys(keys)
    if invoices:
        show_invoices(invoices)
