"""`steelyard alert`: say at which spend somebody is to be told, and list what was told."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document
from billing.cli.output import JsonFlag, amount, show_document, show_json, show_nothing, show_table
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.money import exact_decimal, plain
from billing.operations.rating.alerts import (
    MadeBy,
    define_threshold,
    end_threshold,
    list_alerts,
    list_thresholds,
)
from billing.operations.tenancy.tenants import require_tenant
from billing.rating.spend import BaseKind, Threshold, ThresholdBase
from billing.store.spend_alerts import ThresholdRow

app = typer.Typer()

SET = "steelyard alert set acme eighty --percent 80 --commitment spend"
TenantArgument = Annotated[str, typer.Argument(help="Slug of the tenant.")]
NameArgument = Annotated[str, typer.Argument(help="Name of the threshold.")]


@app.command("set", epilog=f"Example: {SET}")
def set_one(
    *,
    tenant: TenantArgument,
    name: NameArgument,
    worth: Annotated[
        str | None, typer.Option("--amount", help="Major units of the contracts' currency.")
    ] = None,
    percent: Annotated[
        str | None, typer.Option(help="Percentage of --commitment or --limit.")
    ] = None,
    commitment: Annotated[
        str | None, typer.Option(metavar="KEY", help="A spend commitment of the plan.")
    ] = None,
    limit: Annotated[str | None, typer.Option(metavar="NAME", help="A limit on money.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell once in each billing period, when its spend has reached this."""
    terms = Threshold(
        amount=None if worth is None else exact_decimal(worth, field="amount"),
        percent=None if percent is None else exact_decimal(percent, field="percent"),
        base=_base(commitment, limit),
    )
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        row = define_threshold(
            connection,
            tenant=owner,
            name=name,
            terms=terms,
            made_by=MadeBy.OPERATOR,
            now=clock(),
        )
    _show(row, as_json=as_json)


@app.command("list", epilog="Example: steelyard alert list acme")
def list_all(*, tenant: TenantArgument, as_json: JsonFlag = False) -> None:
    """Show what a tenant's spend is watched for."""
    with as_operator() as connection:
        rows = list_thresholds(connection, tenant=require_tenant(connection, tenant))
    if as_json:
        show_json({"thresholds": [_document(row) for row in rows]})
    elif not rows:
        show_nothing("No thresholds yet.", then=SET)
    else:
        show_table(
            "Thresholds",
            ("name", "at", "of", "made by", "since"),
            [(row.name, _at(row), _of(row), row.made_by, row.created_at) for row in rows],
        )


@app.command(epilog="Example: steelyard alert end acme eighty")
def end(*, tenant: TenantArgument, name: NameArgument, as_json: JsonFlag = False) -> None:
    """Watch no more; what was told stays listed."""
    with as_operator() as connection:
        row = end_threshold(
            connection,
            tenant=require_tenant(connection, tenant),
            name=name,
            asked_by=MadeBy.OPERATOR,
            now=clock(),
        )
    _show(row, as_json=as_json)


@app.command(epilog="Example: steelyard alert fired acme")
def fired(*, tenant: TenantArgument, as_json: JsonFlag = False) -> None:
    """Show which thresholds were reached, the newest first."""
    with as_operator() as connection:
        owner = require_tenant(connection, tenant)
        rows = list_alerts(connection, tenant_id=owner.id)
    if as_json:
        documents = [
            {
                "threshold": row.name,
                "period": period_document(row.period),
                "currency": row.currency,
                "reached_at": plain(row.reached),
                "spent": plain(row.spent),
                "watermark": row.watermark,
                "fired_at": row.fired_at,
            }
            for row in rows
        ]
        show_json({"alerts": documents})
    elif not rows:
        show_nothing("No threshold was reached.", then=f"steelyard alert list {tenant}")
    else:
        show_table(
            f"Alerts of {tenant}",
            ("threshold", "period from", "#reached at", "#spent", "fired at"),
            [
                (
                    row.name,
                    row.period.start,
                    amount(row.reached, row.currency),
                    amount(row.spent, row.currency),
                    row.fired_at,
                )
                for row in rows
            ],
        )


def _base(commitment: str | None, limit: str | None) -> ThresholdBase | None:
    if commitment is not None and limit is not None:
        raise InvalidInput(
            "a percentage is of one thing", field="base", remedy="give --commitment or --limit"
        )
    if commitment is not None:
        return ThresholdBase(kind=BaseKind.COMMITMENT, name=commitment)
    return None if limit is None else ThresholdBase(kind=BaseKind.LIMIT, name=limit)


def _at(row: ThresholdRow) -> str:
    terms = row.terms
    if terms.amount is not None:
        return amount(terms.amount)
    assert terms.percent is not None
    return f"{plain(terms.percent)} %"


def _of(row: ThresholdRow) -> str:
    base = row.terms.base
    return "spend" if base is None else f"{base.kind.value} {base.name}"


def _show(row: ThresholdRow, *, as_json: bool) -> None:
    document = _document(row)
    show_document(f"Threshold {row.name}", document, as_json=as_json)


def _document(row: ThresholdRow) -> dict[str, Any]:
    terms = row.terms
    return {
        "name": row.name,
        "amount": None if terms.amount is None else plain(terms.amount),
        "percent": None if terms.percent is None else plain(terms.percent),
        "base": terms.base and terms.base.kind.value,
        "base_name": terms.base and terms.base.name,
        "made_by": row.made_by,
        "created_at": row.created_at,
    }
