"""`steelyard plan diff`: what changed between two plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from billing.catalog.price_plan import PricePlan
from billing.cli.documents import Json, plan_summary
from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_table, show_text
from billing.cli.plan_check import METERS, read_meters
from billing.cli.plan_names import plan_and_version
from billing.cli.sources import STDIN, read_bytes
from billing.money import plain
from billing.planfiles.meter_file import declared_by_code
from billing.planfiles.plan_diff import Books, ComparedPlans, Difference, compare_books
from billing.planfiles.plan_file import require_price_books
from billing.planfiles.plan_reading import KnownMeters

_SIDE = "FILE|SLUG[@VERSION]"


def diff(
    before: Annotated[str, typer.Argument(metavar=_SIDE, help="A file, or a stored plan.")],
    after: Annotated[str, typer.Argument(metavar=_SIDE, help="A file, or a stored plan.")],
    meters: Annotated[list[str] | None, METERS] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two plans: charges added and removed, prices changed and by how much, policies.

    Files of several currencies are compared in each; a stored plan with the file's in its currency.
    """
    known = declared_by_code(read_meters(meters or ()))
    compared = compare_books(_plans(before, known), _plans(after, known))
    if as_json:
        documents = [_pair_document(each) for each in compared]
        show_json(documents[0] if len(documents) == 1 else {"plans": documents})
    elif not any(each.differences for each in compared):
        show_text("The two plans say the same.")
    for each in () if as_json else compared:
        if each.differences:
            show_table(
                f"{_name(each.before)} to {_name(each.after)}",
                ("change", "of", "key", "field", "before", "after", "#percent"),
                [_row(difference) for difference in each.differences],
            )


def _plans(text: str, known: KnownMeters) -> Books:
    if text == STDIN or Path(text).is_file():
        with refused_in(text):
            plans = require_price_books(read_bytes(text), meters=known)
        return Books(plans=plans, whole=True)
    from billing.cli.connect import as_operator
    from billing.operations.catalog.plans import require_plan

    slug, version = plan_and_version(text)
    with as_operator() as connection:
        return Books(plans=(require_plan(connection, slug, version),), whole=False)


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


def _pair_document(each: ComparedPlans) -> Json:
    return {
        "before": plan_summary(each.before),
        "after": plan_summary(each.after),
        "differences": [_document(difference) for difference in each.differences],
    }


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
