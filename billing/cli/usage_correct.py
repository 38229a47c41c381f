"""`steelyard usage void` and `steelyard usage amend`: corrections of usage events."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated
from uuid import UUID

import typer

from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, show_document
from billing.cli.usage_parked import ACTOR
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.metering.correction import Correction
from billing.money import QUANTITY_DECIMALS_MAX, exact_decimal
from billing.operations.metering.correct_usage import correct_usage
from billing.operations.tenancy.tenants import require_tenant

Event = Annotated[str, typer.Argument(metavar="EVENT", help="As `usage requests` shows it.")]
OfTenant = Annotated[str, typer.Option("--tenant", help="Slug of the tenant whose usage it is.")]
Reason = Annotated[str, typer.Option(help="For the tenant and the auditor.")]
Source = Annotated[str, typer.Option(help="Who corrects.")]
Name = Annotated[str, typer.Option("--id", help="Your id of the correction; it happens once.")]


def void(
    *,
    event: Event,
    tenant: OfTenant,
    reason: Reason,
    name: Name,
    source: Source = "operator",
    as_json: JsonFlag = False,
) -> None:
    """Take a usage event back; the next invoice bills the difference."""
    _correct(
        Correction(corrects=_event_id(event), source=source, foreign_id=name, reason=reason),
        tenant=tenant,
        as_json=as_json,
    )


def amend(
    *,
    event: Event,
    tenant: OfTenant,
    reason: Reason,
    name: Name,
    quantity: Annotated[list[str], typer.Option(metavar="METER=NUMBER", help="What counts.")],
    source: Source = "operator",
    as_json: JsonFlag = False,
) -> None:
    """Count other quantities instead of a usage event's; what is not named counts nothing."""
    quantities: dict[str, Decimal] = {}
    for pair in quantity:
        meter, _, number = pair.partition("=")
        quantities[meter] = exact_decimal(
            number, field=f"quantities.{meter}", decimals_max=QUANTITY_DECIMALS_MAX
        )
    _correct(
        Correction(
            corrects=_event_id(event),
            source=source,
            foreign_id=name,
            reason=reason,
            quantities=quantities,
        ),
        tenant=tenant,
        as_json=as_json,
    )


def _correct(correction: Correction, *, tenant: str, as_json: bool) -> None:
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        done = correct_usage(connection, correction, tenant_id=owner.id, actor=ACTOR, now=clock())
    row = done.correction
    members = {
        "kind": row.kind,
        "corrects": f"req_{row.corrects.hex}",
        "period_of": row.corrects_at,
        "taken_back_by": f"req_{row.event_id.hex}",
        "replaced_by": row.replacement_id and f"req_{row.replacement_id.hex}",
        "reason": row.reason,
        "repeated": done.repeated,
    }
    show_document("Correction", members, as_json=as_json)


def _event_id(text: str) -> UUID:
    try:
        return UUID(hex=text.removeprefix("req_"))
    except ValueError:
        raise InvalidInput(
            "not an id", field="event", remedy="see `steelyard usage requests`"
        ) from None
