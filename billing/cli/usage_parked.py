"""`steelyard usage parked`: what waits, and the decisions about it."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, show_json, show_table, show_text
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.metering.usage_event import VerdictKind
from billing.operations.metering.parking import reject_parked, release_parked
from billing.operations.metering.read_usage import parked_usage
from billing.operations.tenancy.tenants import list_tenants, require_tenant

app = typer.Typer(no_args_is_help=True, help="Reported events that wait for a decision.")

ACTOR = "command line"
"""Who decided, where an operator did at a terminal."""

ParkedId = Annotated[str, typer.Argument(metavar="ID", help="As `usage parked list` shows it.")]


@app.command("list", epilog="Example: steelyard usage parked list --tenant acme")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List reported events that wait: their meter is unknown, or they lie in the future."""
    with as_operator() as connection:
        tenant_id = require_tenant(connection, tenant).id if tenant is not None else None
        rows = parked_usage(connection, tenant_id=tenant_id)
        slugs = {each.id: each.slug for each in list_tenants(connection)}
    columns = (
        "parked_id", "tenant", "source", "id", "meter", "model", "#quantity", "at", "reason",
    )  # fmt: skip
    cells = [
        (row.id, slugs[row.tenant_id], row.source, row.foreign_id, row.meter, row.model,
         row.quantity, row.occurred_at, row.reason)
        for row in rows
    ]  # fmt: skip
    if as_json:
        names = [column.removeprefix("#") for column in columns]
        show_json({"parked": [dict(zip(names, each, strict=True)) for each in cells]})
    elif not rows:
        show_text("Nothing is parked.", style="green")
    else:
        show_table("Parked events", columns, cells)


@app.command(epilog="Example: steelyard usage parked release 01934d5a-...")
def release(*, parked_id: ParkedId, as_json: JsonFlag = False) -> None:
    """Take a parked event into the ledger. Exits with 1 if it still cannot be counted."""
    with as_operator() as connection:
        verdict = release_parked(connection, parked_id=_parsed(parked_id), actor=ACTOR, now=clock())
    if as_json:
        show_json({"verdict": verdict.kind, "event_id": verdict.event_id, "reason": verdict.reason})
    else:
        show_text(": ".join(part for part in (verdict.kind.value, verdict.reason) if part))
    if verdict.kind not in {VerdictKind.ACCEPTED, VerdictKind.DUPLICATE}:
        raise typer.Exit(REFUSED)


@app.command(epilog='Example: steelyard usage parked reject 01934d5a-... --reason "a typo"')
def reject(
    *,
    parked_id: ParkedId,
    reason: Annotated[str, typer.Option(help="What its reporter is told from now on.")],
    as_json: JsonFlag = False,
) -> None:
    """Refuse a parked event for good."""
    with as_operator() as connection:
        row = reject_parked(
            connection, parked_id=_parsed(parked_id), reason=reason, actor=ACTOR, now=clock()
        )
    if as_json:
        show_json({"parked_id": row.id, "verdict": VerdictKind.REJECTED, "reason": reason})
    else:
        show_text(f"Rejected {row.foreign_id} of {row.source}.")


def _parsed(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidInput(
            "not an id", field="parked_id", remedy="see `steelyard usage parked list`"
        ) from None
