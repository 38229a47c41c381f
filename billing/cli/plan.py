"""`steelyard plan`: price plans as files and as stored versions."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.catalog.price_plan import PricePlan
from billing.cli.documents import plan_document, plan_summary
from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_nothing, show_table, show_text
from billing.cli.plan_check import check
from billing.cli.plan_diff import diff
from billing.cli.plan_names import plan_and_version
from billing.cli.plan_tables import show_plan
from billing.cli.sources import read_bytes, text_of
from billing.cli.when import clock
from billing.errors import InvalidInput, NotFound
from billing.planfiles.plan_file import EXAMPLES, plan_schema

app = typer.Typer()


app.command(epilog="Example: steelyard plan check plans/ --meters meters/")(check)
app.command(epilog="Example: steelyard plan diff standard@1 plan.yaml")(diff)


@app.command(epilog="Example: steelyard plan apply plans/*.yaml")
def apply(
    *,
    paths: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML plan files.")],
    as_json: JsonFlag = False,
) -> None:
    """Store plan files as new versions, all or none; an unchanged plan stores nothing."""
    from billing.cli.connect import as_operator
    from billing.operations.catalog.plans import AppliedPlan, apply_price_books

    applied: list[AppliedPlan] = []
    with as_operator() as connection:
        for path in paths:
            with refused_in(path):
                applied += apply_price_books(connection, read_bytes(path), now=clock())
    if as_json:
        documents = [{**plan_summary(each.plan), "created": each.created} for each in applied]
        show_json({"plans": documents})
    else:
        show_table(
            "Plans",
            ("plan", "#version", "name", "currency", "#charges", "stored"),
            [
                (*_row(each.plan), "new version" if each.created else "unchanged")
                for each in applied
            ],
        )


@app.command(epilog="Example: steelyard plan approve standard@2 --key - < operator.key")
def approve(
    *,
    name: Annotated[str, typer.Argument(metavar="SLUG@VERSION", help="A stored version.")],
    key: Annotated[
        str, typer.Option(metavar="FILE", help="An operator's API key; - is standard input.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Approve a plan version that somebody else applied, so that contracts may bind it."""
    from billing.cli.connect import as_operator
    from billing.operations.catalog.approve_plan import approve_plan
    from billing.operations.tenancy.keys import authenticate

    slug, version = plan_and_version(name)
    if version is None:
        raise InvalidInput("a plan without a version", field="plan", remedy=f"write {slug}@1")
    now, text = clock(), text_of(read_bytes(key, field="key"), field="key").strip()
    with as_operator() as connection:
        caller = authenticate(connection, text, now=now)
        done = approve_plan(connection, slug=slug, version=version, caller=caller, now=now)
    if as_json:
        show_json({"slug": done.slug, "version": done.version, "approved_at": done.approved_at})
    else:
        show_text(f"{done.slug}@{done.version} is approved.", style="green")


@app.command("list", epilog="Example: steelyard plan list")
def list_all(as_json: JsonFlag = False) -> None:
    """List all versions of all stored plans."""
    from billing.cli.connect import as_operator
    from billing.operations.catalog.plans import list_plans

    with as_operator() as connection:
        plans = list_plans(connection)
    if as_json:
        show_json({"plans": [plan_summary(plan) for plan in plans]})
    elif not plans:
        show_nothing("No plans yet.", then="steelyard plan apply FILE, or steelyard plan example")
    else:
        columns = ("plan", "#version", "name", "currency", "#charges")
        show_table("Plans", columns, [_row(plan) for plan in plans])


@app.command(epilog="Example: steelyard plan show inference-standard@1")
def show(
    *,
    name: Annotated[str, typer.Argument(metavar="SLUG[@VERSION]", help="Newest if no version.")],
    as_json: JsonFlag = False,
) -> None:
    """Show a stored plan with every charge and tier."""
    from billing.cli.connect import as_operator
    from billing.operations.catalog.plans import require_plan

    slug, version = plan_and_version(name)
    with as_operator() as connection:
        plan = require_plan(connection, slug, version)
    if as_json:
        show_json(plan_document(plan))
    else:
        show_plan(plan)


@app.command(epilog="Example: steelyard plan schema > plan.schema.json")
def schema(as_json: JsonFlag = False) -> None:  # noqa: ARG001  # every command takes --json
    """Print the JSON Schema of plan files, for editors."""
    show_json(plan_schema())


@app.command(epilog="Example: steelyard plan example inference-standard > plan.yaml")
def example(
    *,
    name: Annotated[str | None, typer.Argument(help="Left out: list the examples.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print an example file that works as it stands."""
    names = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
    if name is None:
        if as_json:
            show_json({"examples": names})
        else:
            show_table("Examples", ("name",), [(each,) for each in names])
        return
    if name not in names:
        raise NotFound("no such example", field="name", remedy=f"use {', '.join(names)}")
    text = EXAMPLES.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    # In the copy, the schema is beside it: `steelyard plan schema > plan.schema.json`.
    text = text.replace("$schema=../../../openapi/", "$schema=", 1)
    if as_json:
        show_json({"name": name, "text": text})
    else:
        print(text, end="")


def _row(plan: PricePlan) -> tuple[object, ...]:
    return plan.slug, plan.version, plan.name, plan.currency.code, len(plan.charges)
