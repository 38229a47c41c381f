"""`steelyard limit`: set, list and end the limits of tenants."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from billing.admission.limit import Unit, Window
from billing.cli.connect import as_operator
from billing.cli.output import JsonFlag, show_document, show_json, show_nothing, show_table
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.money import LEDGER_DECIMALS, exact_decimal, plain
from billing.operations.holds.define_limit import (
    LimitTerms,
    LimitView,
    define_limit,
    end_limit,
    list_limits,
)
from billing.operations.tenancy.tenants import require_tenant
from billing.store.limits import LimitRow

app = typer.Typer()

SET = "steelyard limit set acme monthly-budget --amount 500 --currency USD --per month"
TenantArgument = Annotated[str, typer.Argument(help="Slug of the tenant.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the limit.")]


@app.command("set", epilog=f"Example: {SET}")
def set_one(
    *,
    tenant: TenantArgument,
    name: NameArgument,
    worth: Annotated[
        str | None, typer.Option("--amount", help="Money, in major units of the currency.")
    ] = None,
    currency: Annotated[str | None, typer.Option(help="ISO code, with --amount.")] = None,
    tokens: Annotated[str | None, typer.Option(metavar="N", help="Tokens.")] = None,
    requests: Annotated[str | None, typer.Option(metavar="N", help="Requests.")] = None,
    concurrent: Annotated[
        str | None, typer.Option(metavar="N", help="Requests in flight at a time.")
    ] = None,
    per: Annotated[Window, typer.Option(help="After which time it starts again.")] = Window.NONE,
    project: Annotated[str | None, typer.Option(help="Of this project only.")] = None,
    key: Annotated[str | None, typer.Option(help="Of this key only: its public part.")] = None,
    model: Annotated[str | None, typer.Option(help="For this model only.")] = None,
    soft: Annotated[bool, typer.Option(help="Tell at its end, and refuse nothing.")] = False,
    shadow: Annotated[bool, typer.Option(help="Count only, to try it out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Set a limit, or change the one of this name; what it has counted stays counted."""
    unit, capacity = _capacity(
        {
            "amount": (Unit.MONEY, worth),
            "tokens": (Unit.TOKENS, tokens),
            "requests": (Unit.REQUESTS, requests),
            "concurrent": (Unit.SLOTS, concurrent),
        }
    )
    terms = LimitTerms(
        unit=unit,
        window=per,
        capacity=capacity,
        currency=currency,
        project=project,
        key=key,
        model=model,
        hard=not soft,
        shadow=shadow,
    )
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        view = define_limit(connection, tenant=owner, name=name, terms=terms, now=clock())
    _show(view, as_json=as_json)


@app.command("list", epilog="Example: steelyard limit list acme")
def list_all(*, tenant: TenantArgument, as_json: JsonFlag = False) -> None:
    """Show a tenant's limits, and what is left of them."""
    with as_operator() as connection:
        views = list_limits(connection, tenant=require_tenant(connection, tenant), now=clock())
    if as_json:
        show_json({"limits": [_document(view) for view in views]})
        return
    if not views:
        show_nothing("No limits yet.", then=SET)
        return
    show_table(
        "Limits",
        ("name", "counts", "per", "#capacity", "#used", "#leased", "#left", "resets at", "of", ""),
        [
            (
                row.name,
                row.currency or row.unit.value,
                row.window.value,
                row.capacity,
                row.used,
                row.leased,
                row.left,
                view.resets_at,
                _scope(row),
                _manner(row),
            )
            for view in views
            for row in (view.row,)
        ],
    )


@app.command(epilog="Example: steelyard limit end acme monthly-budget")
def end(*, tenant: TenantArgument, name: NameArgument, as_json: JsonFlag = False) -> None:
    """End a limit: it counts nothing from now on."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        view = end_limit(connection, tenant=owner, name=name, now=clock())
    _show(view, as_json=as_json)


def _capacity(given: dict[str, tuple[Unit, str | None]]) -> tuple[Unit, Decimal]:
    said = [(option, unit, text) for option, (unit, text) in given.items() if text is not None]
    if len(said) != 1:
        raise InvalidInput(
            "say what it limits, and one thing only",
            field="capacity",
            remedy="one of --amount, --tokens, --requests, --concurrent",
        )
    ((option, unit, text),) = said
    return unit, exact_decimal(text, field=option, decimals_max=LEDGER_DECIMALS)


def _show(view: LimitView, *, as_json: bool) -> None:
    document = _document(view)
    show_document(f"Limit {view.row.name}", document, as_json=as_json)


def _document(view: LimitView) -> dict[str, Any]:
    row = view.row
    return {
        "name": row.name,
        "unit": row.unit.value,
        "window": row.window.value,
        "currency": row.currency,
        "capacity": plain(row.capacity),
        "hard": row.hard,
        "shadow": row.shadow,
        "project": row.project,
        "key": row.key,
        "model": row.model,
        "used": plain(row.used),
        "leased": plain(row.leased),
        "left": plain(row.left),
        "resets_at": view.resets_at,
        "ended_at": row.ended_at,
    }


def _scope(row: LimitRow) -> str:
    scope = {"project": row.project, "key": row.key, "model": row.model}
    return ", ".join(f"{what} {name}" for what, name in scope.items() if name) or "all"


def _manner(row: LimitRow) -> str:
    return "shadow" if row.shadow else "hard" if row.hard else "soft"
