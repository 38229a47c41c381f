"""`steelyard usage`: what tenants used, how it came in, and whether it adds up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document, unrated_document
from billing.cli.failure import refused_in
from billing.cli.output import (
    JsonFlag,
    figure,
    show_json,
    show_nothing,
    show_table,
    show_text,
    span,
)
from billing.cli.usage_correct import amend, void
from billing.cli.usage_import import Imported, import_usage
from billing.cli.usage_parked import app as parked
from billing.cli.usage_show import IMPORT, TenantOption, show, tenant_and_period
from billing.cli.usage_spend import balance, forecast
from billing.cli.when import FromOption, PeriodOption, ToOption, clock, instant
from billing.exit_status import REFUSED
from billing.metering.usage_event import Cause, EventKind, VerdictKind
from billing.money import plain
from billing.operations.metering.read_usage import requests_of
from billing.operations.metering.unrated_usage import UnratedOfTenant, unrated_usage
from billing.operations.metering.verify_rollups import verify_rollups
from billing.store.usage.read import EventView

app = typer.Typer()
app.add_typer(parked, name="parked")
app.command(
    epilog="Example: steelyard usage show --tenant acme --by key,dimension:region --model sim-small"
)(show)
app.command(
    epilog='Example: steelyard usage void req_0193... --tenant acme --id v-1 --reason "twice"'
)(void)
app.command(
    epilog="Example: steelyard usage amend req_0193... --tenant acme --id a-1 "
    '--quantity tokens.output=900 --reason "counted twice"'
)(amend)

app.command(epilog="Example: steelyard usage balance --tenant acme")(balance)
app.command(epilog="Example: steelyard usage forecast --tenant acme")(forecast)


@app.command(epilog="Example: steelyard usage requests --tenant acme --limit 10")
def requests(
    *,
    tenant: TenantOption,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    limit: Annotated[int, typer.Option(help="At most this many, the newest ones.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """List usage events one by one; of the running billing period if no dates are given."""
    with as_operator() as connection:
        owner, chosen = tenant_and_period(connection, tenant, period, since, until)
        events = requests_of(connection, tenant=owner, period=chosen, limit=limit)
    if as_json:
        documents = [_event_document(event) for event in events]
        show_json({"tenant": tenant, "period": period_document(chosen), "requests": documents})
    elif not events:
        show_nothing(f"No requests in {span(chosen, owner.zone)}.", then=IMPORT)
    else:
        show_table(
            f"Requests of {tenant}, newest first; times in UTC",
            ("id", "at", "model", "ended", "estimated", "quantities", "#ms"),
            [
                (
                    f"req_{event.id.hex}",
                    event.occurred_at,
                    event.model,
                    Cause(event.cause).name.lower(),
                    event.estimated,
                    ", ".join(f"{meter} {figure(n)}" for meter, n in event.quantities.items()),
                    event.duration_us // 1000,
                )
                for event in events
            ],
        )


@app.command(
    "import",
    epilog=f"Example: {IMPORT}\n\n"
    'A row: {"source": "batch", "id": "job-7", "meter": "tokens.output", "quantity": 1200, '
    '"occurred_at": "2026-11-03T09:30:00Z", "model": "sim-small"}',
)
def import_file(
    *,
    path: Annotated[
        str,
        typer.Argument(metavar="FILE", help="JSON Lines, .csv or .parquet; - is standard input."),
    ],
    tenant: Annotated[str, typer.Option(help="Slug of the tenant whose usage it is.")],
    source: Annotated[
        str | None, typer.Option(help="Who reports, for rows that do not say.")
    ] = None,
    rejected: Annotated[
        Path | None,
        typer.Option(help="Write rows that were refused here, and import the others."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the rows that are in the ledger.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Import usage events, each once: a run that was cut off is repeated, or resumed.

    Without --rejected nothing is written if a row is malformed. Exits with 1 if a row is
    conflicting or rejected.
    """
    with refused_in(path):
        imported = import_usage(
            path, tenant=tenant, source=source, rejected=rejected, resume=resume, quiet=as_json
        )
    if as_json:
        show_json(_imported_document(imported))
    else:
        _show_imported(imported)
    if imported.refused:
        raise typer.Exit(REFUSED)


@app.command(epilog="Example: steelyard usage unrated")
def unrated(
    *,
    at: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="In the billing periods that hold this day; today."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List usage that no charge prices; it blocks the invoice of its period."""
    moment = instant(at, in_zone="UTC", field="at") if at else clock()
    with as_operator() as connection:
        rows = unrated_usage(connection, instant=moment, now=clock())
    if as_json:
        show_json({"unrated": [_unrated_document(row) for row in rows]})
    elif not rows:
        show_text("Everything that was used has a price.", style="green")
    else:
        show_table(
            "Usage that no charge prices: it blocks the invoice",
            ("tenant", "meter", "model", "#quantity"),
            [(r.tenant, r.quantity.meter, r.quantity.model, r.quantity.quantity) for r in rows],
        )


@app.command(epilog="Example: steelyard usage verify")
def verify(as_json: JsonFlag = False) -> None:
    """Sum the raw events again and compare with the rollups that invoices are rated from."""
    with as_operator() as connection:
        differences = verify_rollups(connection)
    if as_json:
        show_json(
            {
                "verified": not differences,
                "differences": [
                    {"tenant": each.tenant, "bucket": each.bucket, "meter": each.meter}
                    for each in differences
                ],
            }
        )
    elif not differences:
        show_text("Rollups are the sums of their events.", style="green")
    else:
        show_table(
            "Rollups that differ from their events",
            ("tenant", "bucket", "meter"),
            [(each.tenant, each.bucket, each.meter) for each in differences],
        )
    if differences:
        raise typer.Exit(REFUSED)


def _event_document(event: EventView) -> dict[str, object]:
    return {
        "id": f"req_{event.id.hex}",
        "occurred_at": event.occurred_at,
        "model": event.model,
        "kind": EventKind(event.kind).name.lower(),
        "ended": Cause(event.cause).name.lower(),
        "estimated": event.estimated,
        "quantities": {meter: plain(number) for meter, number in event.quantities.items()},
        "duration_us": event.duration_us,
    }


def _unrated_document(row: UnratedOfTenant) -> dict[str, object]:
    return {"tenant": row.tenant, **unrated_document(row.quantity)}


def _imported_document(imported: Imported) -> dict[str, object]:
    return {
        "rows": imported.rows,
        "skipped": imported.skipped,
        "verdicts": {kind.value: imported.verdicts[kind] for kind in VerdictKind},
        "problems": [
            {"line": each.line, "verdict": each.verdict.value, "reason": each.reason}
            for each in imported.problems
        ],
    }


def _show_imported(imported: Imported) -> None:
    if imported.skipped:
        show_text(f"{imported.skipped:,} rows were in the ledger before.")
    elif not imported.rows:
        show_nothing("The file has no rows.", then="steelyard usage import --help")
        return
    kinds = [kind for kind in VerdictKind if imported.verdicts[kind]]
    show_table(
        f"{imported.rows:,} rows",
        ("verdict", "#rows"),
        [(kind.value, imported.verdicts[kind]) for kind in kinds],
    )
    if imported.problems:
        show_table(
            "First problems",
            ("#line", "verdict", "reason"),
            [(each.line, each.verdict.value, each.reason) for each in imported.problems],
        )
