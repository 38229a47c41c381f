"""`steelyard usage show`: what a tenant used, split by and narrowed to what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import sqlalchemy as sa
import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document
from billing.cli.output import JsonFlag, show_json, show_nothing, show_table, span
from billing.cli.when import FromOption, PeriodOption, ToOption, chosen_period, clock
from billing.money import plain
from billing.operations.metering.read_usage import BY, OnlyUsage, usage_of
from billing.operations.tenancy.tenants import require_tenant
from billing.period import Period, zone
from billing.store.usage.levels import UsageRow
from billing.tenancy.tenant import Tenant

IMPORT = "steelyard usage import --tenant acme usage.jsonl"

TenantOption = Annotated[
    str, typer.Option("--tenant", help="Slug of the tenant; dates are of its zone.")
]

_DIMENSION = "dimension:"


def show(
    *,
    tenant: TenantOption,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    group: Annotated[
        str,
        typer.Option(help="day, month (of the tenant's zone), hour, bucket (15 minutes) or none."),
    ] = "day",
    by: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help="Split by model, project, key, dimension:NAME; with commas."
        ),
    ] = ",".join(BY),
    meter: Annotated[
        list[str] | None, typer.Option(help="Only this meter; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this model; may be repeated.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Only this project; may be repeated.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Only this key, as `key list` shows it; may be repeated."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show usage by meter, and by what --by names; of the running period if no dates are given.

    The level says what was read: sums that were kept, or the events, if edges changed since.
    """
    names = tuple(name for name in by.split(",") if name)
    only = OnlyUsage(meters=meter, models=model, projects=project, keys=key)
    with as_operator() as connection:
        owner, chosen = tenant_and_period(connection, tenant, period, since, until)
        rows = usage_of(connection, tenant=owner, period=chosen, group=group, by=names, only=only)
    if as_json:
        show_json(
            {
                "tenant": tenant,
                "period": period_document(chosen),
                "group": group,
                "by": names,
                "usage": [_document(row) for row in rows],
            }
        )
    elif not rows:
        show_nothing(f"No usage in {span(chosen, owner.zone)}.", then=IMPORT)
    else:
        _show_rows(rows, names, owner, chosen, group)


def tenant_and_period(
    connection: sa.Connection,
    tenant: str,
    period: str | None,
    since: str | None,
    until: str | None,
) -> tuple[Tenant, Period]:
    """The tenant, and the period that was asked for: its running one if none was.

    Raises:
        NotFound: no such tenant.
        InvalidInput: no period.
    """
    owner = require_tenant(connection, tenant)
    chosen = chosen_period(
        period=period,
        since=since,
        until=until,
        in_zone=owner.zone,
        tenant=owner,
        otherwise=owner.billing_period(clock()),
    )
    return owner, chosen


def _show_rows(
    rows: Sequence[UsageRow], by: Sequence[str], owner: Tenant, period: Period, group: str
) -> None:
    days = group in {"day", "month"}
    form = "%Y-%m-%d" if days else "%Y-%m-%d %H:%M"
    splits = [name for name in by if name != "meter"]
    show_table(
        f"Usage of {owner.slug}, {span(period, owner.zone)}",
        (
            group if days else "from",
            "meter",
            *(name.removeprefix(_DIMENSION) for name in splits),
            "#quantity",
            "#events",
            "level",
        ),
        [
            (
                f"{row.start.astimezone(zone(owner.zone)):{form}}",
                row.meter,
                *(_split_value(row, name) for name in splits),
                row.quantity,
                row.events,
                row.level.value,
            )
            for row in rows
        ],
    )


def _split_value(row: UsageRow, name: str) -> str | None:
    match name:
        case "model":
            return row.model
        case "project":
            return row.project
        case "key":
            return row.key
        case _:
            return row.value


def _document(row: UsageRow) -> dict[str, object]:
    return {
        "start": row.start,
        "meter": row.meter,
        "model": row.model,
        "project": row.project,
        "key": row.key,
        "value": row.value,
        "quantity": plain(row.quantity),
        "events": row.events,
        "level": row.level.value,
    }
