"""`steelyard batch`: what backends run in batches for tenants, and how far it is billed."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.cli.connect import as_operator, connected
from billing.cli.output import JsonFlag, show_document, show_json, show_nothing, show_table
from billing.cli.when import clock
from billing.errors import InvalidInput, NotFound
from billing.exit_status import REFUSED
from billing.operations.deployment import configured_backends
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.settle_batch import BatchSettler, reopen_batch
from billing.operations.tenancy.tenants import require_tenant
from billing.settings import read_settings
from billing.store.batch_runs import BatchState
from billing.store.batch_settlement import Settlement, batches_named, settlements
from billing.store.database import Role

app = typer.Typer(no_args_is_help=True)


@app.command("list", epilog="Example: steelyard batch list --state lost")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    state: Annotated[BatchState | None, typer.Option(help="In this state only.")] = None,
    most: Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N")] = 100,
    as_json: JsonFlag = False,
) -> None:
    """List batches, newest first: lines = events + errors + unreadable."""
    with as_operator() as connection:
        tenant_id = require_tenant(connection, tenant).id if tenant is not None else None
        found = settlements(connection, tenant_id=tenant_id, state=state, most=most)
    if as_json:
        show_json({"batches": [_document(each) for each in found]})
    elif not found:
        show_nothing("No such batch.", then="POST /v1/batches, at a backend that stores them")
    else:
        show_table(
            "Batches",
            (
                "batch", "backend", "tenant", "submitted", "state", "outcome", "#lines", "#events",
                "#errors", "#unreadable", "#anomalies", "problem",
            ),
            [
                (
                    each.batch.batch_id, each.batch.backend, each.tenant, each.batch.submitted_at,
                    each.state, each.ended and each.ended.outcome, each.counted.lines,
                    each.counted.events, each.counted.errors, each.counted.unreadable,
                    each.counted.anomalies, each.problem,
                )
                for each in found
            ],
        )  # fmt: skip


@app.command(epilog="Example: steelyard batch settle batch_68f1 --backend pool-a")
def settle(
    *,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH", help="Its id at the backend.")],
    backend: Annotated[
        str | None, typer.Option(help="Where it runs, if two backends have the id.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask for a batch now and bill its lines; one that was lost is tried again.

    Exits with 1 if it is not billed after that.
    """
    now = clock()
    with connected() as database, batch_client() as client:
        with database.transaction(Role.OPERATOR) as connection:
            chosen = _chosen(batches_named(connection, batch_id), backend)
            reopen_batch(connection, backend=chosen, batch_id=batch_id, now=now)
        backends = {spec.name: spec for spec in configured_backends(read_settings())}
        settler = BatchSettler(database=database, client=client, backends=backends)
        found = settler.settle(chosen, batch_id, now=now)
    show_document(f"Batch {batch_id}", _document(found), as_json=as_json)
    if found.state is not BatchState.BILLED:
        raise typer.Exit(REFUSED)


def _chosen(backends: list[str], named: str | None) -> str:
    """The backend of a batch.

    Raises:
        NotFound: none has it.
        InvalidInput: two have it, and neither is named.
    """
    among = [each for each in backends if named in {None, each}]
    if not among:
        raise NotFound("no such batch", field="batch", remedy="steelyard batch list")
    if len(among) > 1:
        raise InvalidInput(
            f"the backends {', '.join(among)} have a batch of this id",
            field="backend",
            remedy="name one with --backend",
        )
    return among[0]


def _document(each: Settlement) -> dict[str, object]:
    batch, counted, ended = each.batch, each.counted, each.ended
    return {
        "batch": batch.batch_id,
        "backend": batch.backend,
        "tenant": each.tenant,
        "endpoint": batch.endpoint,
        "submitted_at": batch.submitted_at,
        "state": each.state,
        "outcome": None if ended is None else ended.outcome,
        "completed_at": None if ended is None else ended.at,
        "lines": counted.lines,
        "events": counted.events,
        "errors": counted.errors,
        "unreadable": counted.unreadable,
        "anomalies": counted.anomalies,
        "billed_at": each.billed_at,
        "problem": each.problem,
    }
