"""`steelyard plan`: price plans as files and as stored versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated, assert_never

import typer

from billing.catalog.charge import Charge
from billing.catalog.price import (
    FlatFee,
    Graduated,
    Package,
    Percentage,
    PerUnit,
    Reserved,
    Volume,
)
from billing.catalog.price_plan import PricePlan
from billing.catalog.selector import Selector
from billing.catalog.tier import Tier
from billing.cli.documents import plan_document, plan_summary
from billing.cli.failure import refused_in
from billing.cli.output import (
    JsonFlag,
    figure,
    show_json,
    show_members,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.sources import read_bytes
from billing.cli.when import clock
from billing.errors import InvalidInput, NotFound
from billing.planfiles.plan_file import EXAMPLES, plan_schema, read_plan

app = typer.Typer()

_FILE = typer.Argument(metavar="FILE", help="YAML; - is standard input.")


@app.command(epilog="Example: steelyard plan check plan.yaml")
def check(path: Annotated[str, _FILE], as_json: JsonFlag = False) -> None:
    """Check a plan file without a database; an error names line, field and remedy."""
    with refused_in(path):
        plan = read_plan(read_bytes(path))
    if as_json:
        show_json({"valid": True, **plan_summary(plan)})
    else:
        show_text(f"{path} is a valid plan.", style="green")
        _show_plan(plan)


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
        _show_plan(plan)


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


def plan_and_version(text: str) -> tuple[str, int | None]:
    """Split `SLUG[@VERSION]`.

    Raises:
        InvalidInput: the version is not a whole number above zero.
    """
    slug, separator, version = text.partition("@")
    if not separator:
        return slug, None
    if not (version.isascii() and version.isdigit() and 0 < int(version) < 2**31):
        raise InvalidInput("not a version", field="plan", remedy="write it like standard@2")
    return slug, int(version)


def _row(plan: PricePlan) -> tuple[object, ...]:
    return plan.slug, plan.version, plan.name, plan.currency.code, len(plan.charges)


def _show_plan(plan: PricePlan) -> None:
    version = f"@{plan.version}" if plan.version else ""
    terms = f"due {plan.payment_terms_days} days after issue"
    show_table(
        f"{plan.slug}{version}: {plan.name} ({plan.currency.code}, {terms})",
        ("charge", "description", "kind", "meter", "models", "units", "#price", "#per"),
        [row for charge in plan.charges for row in _charge_rows(charge)],
    )
    show_members("Policies", plan_document(plan)["policies"].items())


def _charge_rows(charge: Charge) -> Iterator[tuple[object, ...]]:
    """One row per charge; one more per tier where there are tiers."""
    head = (charge.key, charge.description)
    per = figure(Decimal(charge.per))
    selected = _selected(charge.selector)
    free = f"{figure(charge.included)} included" if charge.included else None
    match charge.price:
        case FlatFee(amount=amount):
            yield *head, "flat fee", None, None, None, figure(amount), "period"
        case PerUnit(price=price):
            yield *head, "per unit", *selected, free, figure(price), per
        case Graduated(tiers=tiers):
            yield *head, "graduated", *selected, free, "", ""
            yield from _tier_rows(tiers, per)
        case Volume(tiers=tiers):
            yield *head, "volume", *selected, free, "", ""
            yield from _tier_rows(tiers, per)
        case Package(size=size, price=price):
            yield *head, "package", *selected, free, figure(price), figure(size)
        case Percentage(percent=percent):
            yield *head, "percentage", *selected, free, f"{figure(percent)} %", "1"
        case Reserved() as reserved:
            held = f"{figure(reserved.committed)} per {reserved.window.value.replace('_', ' ')}"
            yield *head, "reserved", *selected, held, figure(reserved.price), per
            yield *("", "", "  beyond", "", "", ""), figure(reserved.overage), per
        case _:
            assert_never(charge.price)


def _tier_rows(tiers: Sequence[Tier], per: str) -> Iterator[tuple[object, ...]]:
    lower = Decimal(0)
    for tier in tiers:
        upper = "" if tier.up_to is None else f" up to {figure(tier.up_to)}"
        flat = f" and {figure(tier.flat)} once" if tier.flat else ""
        yield (
            *("", "", "  tier", "", ""),
            f"above {figure(lower)}{upper}",
            f"{figure(tier.unit)}{flat}",
            per if tier.package is None else figure(tier.package),
        )
        lower = tier.up_to or lower


def _selected(selector: Selector | None) -> tuple[str | None, str | None]:
    if selector is None:
        return None, None
    models = "any" if selector.models is None else ", ".join(sorted(selector.models))
    return selector.meter, models
