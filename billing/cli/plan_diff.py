"""`steelyard plan diff`: what changed between two plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from billing.catalog.price_plan import PricePlan
from billing.cli.documents import plan_summary
from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_table, show_text
from billing.cli.plan_check import METERS, read_meters
from billing.cli.plan_names import plan_and_version
from billing.cli.sources import STDIN, read_bytes
from billing.money import plain
from billing.planfiles.meter_file import MeterFile, declared_by_code
from billing.planfiles.plan_diff import Difference, plan_differences
from billing.planfiles.plan_file import read_plan

_SIDE = "FILE|SLUG[@VERSION]"


def diff(
    before: Annotated[str, typer.Argument(metavar=_SIDE, help="A file, or a stored plan.")],
    after: Annotated[str, typer.Argument(metavar=_SIDE, help="A file, or a stored plan.")],
    meters: Annotated[list[str] | None, METERS] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two plans: charges added and removed, prices changed and by how much, policies."""
    known = read_meters(meters or ())
    old, new = _plan(before, known), _plan(after, known)
    differences = plan_differences(old, new)
    if as_json:
        show_json(
            {
                "before": plan_summary(old),
                "after": plan_summary(new),
                "differences": [_document(each) for each in differences],
            }
        )
    elif not differences:
        show_text("The two plans say the same.")
    else:
        show_table(
            f"{_name(old)} to {_name(new)}",
            ("change", "of", "key", "field", "before", "after", "#percent"),
            [_row(each) for each in differences],
        )


def _plan(text: str, known: tuple[MeterFile, ...]) -> PricePlan:
    if text == STDIN or Path(text).is_file():
        with refused_in(text):
            return read_plan(read_bytes(text), meters=declared_by_code(known))
    from billing.cli.connect import as_operator
    from billing.operations.catalog.plans import require_plan

    slug, version = plan_and_version(text)
    with as_operator() as connection:
        return require_plan(connection, slug, version)


def _name(plan: PricePlan) -> str:
    return f"{plan.slug}@{plan.version}" if plan.version else plan.slug


def _row(each: Difference) -> tuple[object, ...]:
    percent = None if each.percent is None else f"{each.percent:+f} %"
    return (
        each.change.value,
        each.part,
        each.key or None,
        each.field or None,
        each.before,
        each.after,
        percent,
    )


def _document(each: Difference) -> dict[str, str | None]:
    return {
        "change": each.change.value,
        "part": each.part,
        "key": each.key or None,
        "field": each.field or None,
        "before": each.before,
        "after": each.after,
        "percent": None if each.percent is None else plain(each.percent),
    }
