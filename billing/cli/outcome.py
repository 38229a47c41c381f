"""`steelyard outcome`: claims of outcomes. The operator reports; only the tenant confirms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import typer

from billing.cli.connect import as_operator, connected
from billing.cli.documents import claim_document
from billing.cli.output import JsonFlag, show_json, show_nothing, show_table
from billing.cli.when import clock, instant
from billing.errors import Forbidden, InvalidInput
from billing.operations.outcomes.claims import confirm_outcome, list_claims, report_outcome
from billing.operations.tenancy.keys import authenticate
from billing.operations.tenancy.tenants import require_tenant
from billing.outcomes.claim import Actor, Claim
from billing.store.catalog import NONE
from billing.store.database import Role
from billing.tenancy.api_key import Role as KeyRole

app = typer.Typer()

REPORT = "steelyard outcome report --tenant acme --outcome ticket-resolved --subject T-1042"


@app.command(epilog=f"Example: {REPORT}")
def report(
    *,
    tenant: Annotated[str, typer.Option(help="Slug of the tenant.")],
    outcome: Annotated[str, typer.Option(help="Slug of the outcome, as a plan prices it.")],
    subject: Annotated[str, typer.Option(help="What it is about; it is billed once.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="When it happened; a date of the tenant's zone; now."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Report that an outcome happened; it is billed once the tenant confirms it."""
    now = clock()
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        claim = report_outcome(
            connection,
            tenant=owner,
            outcome=outcome,
            subject=subject,
            occurred_at=instant(at, in_zone=owner.zone, field="at") if at else now,
            actor=Actor.OPERATOR,
            key_id=NONE,
            now=now,
        )
    _show([claim], as_json=as_json)


@app.command(epilog="Example: STEELYARD_TENANT_KEY=sk-sy-… steelyard outcome confirm CLAIM")
def confirm(
    *,
    claim: Annotated[UUID, typer.Argument(metavar="CLAIM", help="Id of the claim.")],
    tenant_key: Annotated[
        str,
        typer.Option(
            envvar="STEELYARD_TENANT_KEY",
            show_envvar=True,
            help="A key of the tenant's with the role tenant: nobody else may confirm.",
        ),
    ],
    as_json: JsonFlag = False,
) -> None:
    """Confirm a claim as the tenant; this bills it."""
    now = clock()
    with connected() as database:
        with database.transaction(Role.OPERATOR) as connection:
            caller = authenticate(connection, tenant_key, now=now)
        if caller.tenant is None or caller.role is not KeyRole.TENANT:
            raise Forbidden(
                "this key may not confirm outcomes",
                field="tenant_key",
                remedy="use a key of the tenant's with the role tenant",
            )
        with database.transaction(Role.TENANT, tenant_id=caller.tenant.id) as connection:
            confirmed = confirm_outcome(
                connection,
                tenant=caller.tenant,
                claim_id=claim,
                actor=Actor.TENANT,
                key_id=caller.key_id,
                now=now,
            )
    _show([confirmed], as_json=as_json)


@app.command("list", epilog="Example: steelyard outcome list --tenant acme")
def list_all(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    limit: Annotated[int, typer.Option(help="At most this many, the newest ones.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List claims, newest first."""
    if limit < 1:
        raise InvalidInput("limit out of range", field="limit", remedy="1 or more")
    with as_operator() as connection:
        tenant_id = require_tenant(connection, tenant).id if tenant is not None else None
        claims = list_claims(connection, tenant_id=tenant_id, limit=limit)
    if as_json:
        show_json({"claims": [claim_document(claim) for claim in claims]})
    elif not claims:
        show_nothing("No outcomes were reported.", then=REPORT)
    else:
        _show(claims, as_json=False)


def _show(claims: Sequence[Claim], *, as_json: bool) -> None:
    if as_json:
        show_json(claim_document(claims[0]))
        return
    show_table(
        "Outcomes (UTC)",
        ("claim", "tenant", "outcome", "subject", "state", "reported", "confirmed"),
        [
            (
                claim.id,
                claim.tenant,
                claim.outcome,
                claim.subject,
                claim.state.value,
                claim.reported_at,
                claim.confirmed_at,
            )
            for claim in claims
        ],
    )
