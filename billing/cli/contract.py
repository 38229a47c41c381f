"""`steelyard contract`: which tenant is on which plan version, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from billing.catalog.contract import Contract
from billing.catalog.contract_terms import NO_TERMS
from billing.cli.connect import as_operator, connected
from billing.cli.documents import contract_document
from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_nothing, show_table, show_text
from billing.cli.plan import plan_and_version
from billing.cli.sources import read_bytes
from billing.cli.when import clock, instant
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.operations.catalog.contracts import (
    bind_contract,
    end_contract,
    list_contracts,
    require_contract,
)
from billing.operations.catalog.migrate_contracts import (
    ContractMove,
    MoveOutcome,
    MoveTime,
    PlanVersion,
    contracts_to_move,
    move_contract,
)
from billing.operations.tenancy.tenants import list_tenants, require_tenant
from billing.planfiles.contract_file import dump_terms, read_terms
from billing.settings import read_settings
from billing.store.database import Role

app = typer.Typer()

BIND = "steelyard contract bind --tenant acme --plan inference-standard"


@app.command(epilog=f"Example: {BIND}@2 --from 2026-11-01")
def bind(
    *,
    tenant: Annotated[str, typer.Option(help="Slug of the tenant.")],
    plan: Annotated[
        str, typer.Option(metavar="SLUG[@VERSION]", help="The newest version if none is named.")
    ],
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE",
            help="A date of the tenant's zone, or RFC 3339, on the quarter of an hour; "
            "the start of its billing period if left out.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="DATE", help="Until it is ended if left out.")
    ] = None,
    terms: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="YAML: what is agreed beside the plan; - is stdin."),
    ] = None,
    others_follow: Annotated[
        bool,
        typer.Option(
            "--others-follow",
            help="What a plan of coverage: together leaves to other contracts is bound next.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Bind a tenant to a plan version."""
    slug, version = plan_and_version(plan)
    with refused_in(terms or ""):
        agreed = read_terms(read_bytes(terms, field="terms")) if terms else NO_TERMS
    now = clock()
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        bound = bind_contract(
            connection,
            tenant=tenant,
            plan=slug,
            version=version,
            valid_from=(
                instant(since, in_zone=owner.zone, field="from")
                if since
                else owner.billing_period(now).start
            ),
            valid_until=instant(until, in_zone=owner.zone, field="until") if until else None,
            terms=agreed,
            approval_required=_approval_required(),
            others_follow=others_follow,
            now=now,
        )
    _show(bound.contract, tenant, as_json=as_json)


@app.command(epilog="Example: steelyard contract end 1 --at 2026-12-01")
def end(
    *,
    contract_id: Annotated[int, typer.Argument(metavar="ID", help="As `contract list` shows it.")],
    at: Annotated[
        str,
        typer.Option(metavar="DATE", help="A date of the tenant's zone, or RFC 3339."),
    ],
    as_json: JsonFlag = False,
) -> None:
    """End a contract: at this instant it is no longer in force."""
    with as_operator() as connection:
        tenants = {tenant.id: tenant for tenant in list_tenants(connection)}
        found = {each.id: each for each in list_contracts(connection)}.get(contract_id)
        in_zone = found.zone if found else "UTC"
        ended = end_contract(
            connection, contract_id, valid_until=instant(at, in_zone=in_zone, field="at")
        )
    _show(ended, tenants[ended.tenant_id].slug, as_json=as_json)


@app.command(epilog="Example: steelyard contract show 1")
def show(
    *,
    contract_id: Annotated[int, typer.Argument(metavar="ID", help="As `contract list` shows it.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a contract with what was agreed beside its plan."""
    with as_operator() as connection:
        bound = require_contract(connection, contract_id)
        slugs = {each.id: each.slug for each in list_tenants(connection)}
    tenant = slugs[bound.contract.tenant_id]
    agreed = dump_terms(bound.terms)
    if as_json:
        show_json({**contract_document(bound.contract, tenant), "terms": agreed})
        return
    _show(bound.contract, tenant, as_json=False)
    if bound.terms == NO_TERMS:
        show_text("The plan as it is: nothing was agreed beside it.")
        return
    for phase in (agreed, *agreed.get("phases", ())):
        since = phase.get("from")
        rows = _agreed_rows(phase)
        if rows:
            show_table(f"Agreed from {since}" if since else "Agreed", ("what", "key", "as"), rows)


@app.command("list", epilog="Example: steelyard contract list --tenant acme")
def list_all(
    *,
    tenant: Annotated[str | None, typer.Option(help="Of this tenant only.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List contracts."""
    with as_operator() as connection:
        tenant_id = require_tenant(connection, tenant).id if tenant is not None else None
        contracts = list_contracts(connection, tenant_id=tenant_id)
        slugs = {each.id: each.slug for each in list_tenants(connection)}
    if as_json:
        documents = [contract_document(each, slugs[each.tenant_id]) for each in contracts]
        show_json({"contracts": documents})
    elif not contracts:
        show_nothing("No contracts yet.", then=BIND)
    else:
        show_table("Contracts", *contract_rows(contracts, slugs))


@app.command(epilog="Example: steelyard contract migrate --from a@1 --to a@2 --at period-end")
def migrate(
    *,
    source: Annotated[str, typer.Option("--from", metavar="SLUG@VERSION", help="What is left.")],
    target: Annotated[str, typer.Option("--to", metavar="SLUG@VERSION", help="What follows.")],
    at: Annotated[MoveTime, typer.Option(help="The next quarter of an hour, or period by period.")],
    tenant: Annotated[
        list[str] | None, typer.Option(help="Of this tenant only; may be said again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Move contracts between plan versions, one by one; running it again goes on with the rest."""
    leaving, following = _exact_version(source, "from"), _exact_version(target, "to")
    now = clock()
    moves: list[ContractMove] = []
    with connected() as database:
        with database.transaction(Role.OPERATOR) as connection:
            found = contracts_to_move(connection, source=leaving, tenants=tenant or (), now=now)
        for contract in found:
            with database.transaction(Role.OPERATOR) as connection:
                moves.append(
                    move_contract(
                        connection,
                        contract.id,
                        target=following,
                        when=at,
                        dry_run=dry_run,
                        approval_required=_approval_required(),
                        now=now,
                    )
                )
    if as_json:
        show_json({"dry_run": dry_run, "contracts": [_move_document(move) for move in moves]})
    elif not moves:
        show_nothing(f"No contract on {source} is in force.", then="steelyard contract list")
    else:
        show_table(
            "Contracts that would move" if dry_run else "Contracts",
            ("tenant", "#id", "at", "outcome", "#new id", "because"),
            [
                (m.tenant, m.contract_id, m.at, m.outcome.value, m.new_contract_id or "", m.reason)
                for m in moves
            ],
        )
    if any(move.outcome is MoveOutcome.REFUSED for move in moves):
        raise typer.Exit(REFUSED)


def contract_rows(
    contracts: Sequence[Contract], slugs: Mapping[int, str]
) -> tuple[Sequence[str], list[Sequence[object]]]:
    """Columns and rows of a table of contracts."""
    return (
        ("#id", "tenant", "plan", "currency", "in force from", "until"),
        [
            (
                each.id,
                slugs[each.tenant_id],
                f"{each.plan_slug}@{each.plan_version}",
                each.currency.code,
                each.valid_from,
                each.valid_until or "open",
            )
            for each in contracts
        ],
    )


def _approval_required() -> bool:
    return read_settings().plan_approval == "required"


def _exact_version(text: str, field: str) -> PlanVersion:
    slug, version = plan_and_version(text)
    if version is None:
        raise InvalidInput("a plan without a version", field=field, remedy=f"write {slug}@1")
    return PlanVersion(slug=slug, version=version)


def _move_document(move: ContractMove) -> dict[str, object]:
    return {
        "tenant": move.tenant,
        "contract": move.contract_id,
        "at": move.at,
        "outcome": move.outcome.value,
        "new_contract": move.new_contract_id,
        "reason": move.reason,
    }


def _agreed_rows(layer: Mapping[str, Any]) -> list[Sequence[object]]:
    """A row for each member that a stored layer of terms says of a charge or of several."""
    return [
        (name, entry.get("charge") or entry["key"], f"{member}: {value}")
        for name in ("overrides", "commitments", "coupons")
        for entry in layer.get(name, ())
        for member, value in entry.items()
        if member not in {"charge", "key", "description"}
    ]


def _show(contract: Contract, tenant: str, *, as_json: bool) -> None:
    if as_json:
        show_json(contract_document(contract, tenant))
    else:
        show_table("Contract", *contract_rows([contract], {contract.tenant_id: tenant}))
