"""`steelyard entity`: legal entities."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import entity_document
from billing.cli.output import JsonFlag, show_document, show_json, show_nothing, show_table
from billing.cli.when import clock
from billing.operations.tenancy.tenants import create_legal_entity
from billing.store.tenancy import legal_entities
from billing.tenancy.tenant import LegalEntity

app = typer.Typer()

CREATE = (
    "steelyard entity create foundry --name 'Foundry Inc' --country US --currency USD "
    "--invoice-prefix INV-2026-"
)


@app.command(epilog=f"Example: {CREATE}")
def create(
    *,
    slug: Annotated[str, typer.Argument(help="Its name in commands and files.")],
    name: Annotated[str, typer.Option(help="Its name on invoices.")],
    country: Annotated[str, typer.Option(help="ISO code of two letters.")],
    currency: Annotated[str, typer.Option(help="ISO code of its books.")],
    zone: Annotated[str, typer.Option(help="IANA zone of its books.")] = "UTC",
    invoice_prefix: Annotated[str, typer.Option(help="Before the number of an invoice.")] = "INV-",
    as_json: JsonFlag = False,
) -> None:
    """Create a legal entity and its invoice number series; an existing one is left as it is."""
    with as_operator() as connection:
        entity = create_legal_entity(
            connection,
            slug=slug,
            name=name,
            country=country,
            currency_code=currency,
            zone_name=zone,
            invoice_prefix=invoice_prefix,
            now=clock(),
        )
    show_document(f"Legal entity {entity.slug}", entity_document(entity), as_json=as_json)


@app.command("list", epilog="Example: steelyard entity list --json")
def list_entities(as_json: JsonFlag = False) -> None:
    """List legal entities."""
    with as_operator() as connection:
        found = legal_entities(connection)
    if as_json:
        show_json({"legal_entities": [entity_document(entity) for entity in found]})
    elif not found:
        show_nothing("No legal entity yet.", then=CREATE)
    else:
        _table(found)


def _table(found: list[LegalEntity]) -> None:
    show_table(
        "Legal entities",
        ("slug", "name", "country", "currency", "zone"),
        [(each.slug, each.name, each.country, each.currency, each.zone) for each in found],
    )
