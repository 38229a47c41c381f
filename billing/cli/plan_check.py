"""`steelyard plan check`: plan files without a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from billing.catalog.price_plan import PricePlan
from billing.cli.documents import Json, plan_summary
from billing.cli.failure import refused_in, report
from billing.cli.output import JsonFlag, show_json, show_note, show_text
from billing.cli.plan_tables import show_plan
from billing.cli.sources import STDIN, read_bytes
from billing.errors import InvalidInput, InvalidPlan
from billing.exit_status import REFUSED
from billing.planfiles.meter_file import MeterFile, declared_by_code, read_meter
from billing.planfiles.plan_file import read_price_books
from billing.planfiles.plan_reading import KnownMeters
from billing.planfiles.plan_warnings import PlanWarning, plan_warnings

_PATHS = typer.Argument(metavar="FILE|DIR...", help="YAML; a folder's *.yaml; - is standard input.")
METERS = typer.Option(
    metavar="FILE|DIR", help="Meter files that the plans count by, besides the built-in meters."
)


def check(
    paths: Annotated[list[str], _PATHS],
    meters: Annotated[list[str] | None, METERS] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check plan files without a database; every error names line, field and remedy.

    Exits with 1 if one is refused. Warnings are about gaps that are allowed.
    """
    known = declared_by_code(read_meters(meters or ()))
    files = list(_files(paths))
    plans: list[tuple[str, PricePlan]] = []
    refused: list[tuple[str, InvalidPlan]] = []
    for path in files:
        found, refusals = _read(path, known)
        plans += [(path, plan) for plan in found]
        refused += [(path, refusal) for refusal in refusals]
    if as_json:
        _show_documents(plans, refused, known)
    for path, refusal in refused:
        refusal.add_note(path)
    if refused and as_json:
        report(refused[0][1], as_json=True)
    elif refused:
        for _, refusal in refused:
            report(refusal, as_json=False)
    else:
        for path, plan in () if as_json else plans:
            show_text(f"{path} is a valid plan.", style="green")
            show_plan(plan)
            for warning in plan_warnings(plan, known):
                show_note(f"warning: {warning.about}: {warning.message} (try: {warning.remedy})")
    if refused:
        raise typer.Exit(REFUSED)


def read_meters(paths: Sequence[str]) -> tuple[MeterFile, ...]:
    """The meters of files and folders.

    Raises:
        InvalidInput: one cannot be read.
        InvalidPlan: one is refused.
    """
    meters: list[MeterFile] = []
    for path in _files(paths):
        with refused_in(path):
            meters.append(read_meter(read_bytes(path, field="meters")))
    return tuple(meters)


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield path
            continue
        found = sorted(str(each) for each in Path(path).glob("*.yaml"))
        if not found:
            raise InvalidInput(
                "no *.yaml in this folder", field="file", remedy="name files or another folder"
            )
        yield from found


def _read(path: str, known: KnownMeters) -> tuple[tuple[PricePlan, ...], tuple[InvalidPlan, ...]]:
    with refused_in(path):
        return read_price_books(read_bytes(path), meters=known)


def _show_documents(
    plans: Sequence[tuple[str, PricePlan]],
    refused: Sequence[tuple[str, InvalidPlan]],
    known: KnownMeters,
) -> None:
    """One valid plan as itself, several as a list; one fault alone is said as an error only."""
    if not plans and len(refused) == 1:
        return
    documents = [
        {
            "file": path,
            "valid": True,
            **plan_summary(plan),
            "warnings": [_warning(warning) for warning in plan_warnings(plan, known)],
        }
        for path, plan in plans
    ]
    if len(documents) == 1 and not refused:
        show_json(documents[0])
        return
    show_json(
        {
            "valid": not refused,
            "plans": documents,
            "refusals": [_refusal(path, refusal) for path, refusal in refused],
        }
    )


def _refusal(path: str, refusal: InvalidPlan) -> Json:
    return {
        "file": path,
        "line": refusal.line,
        "field": refusal.field,
        "code": refusal.code,
        "message": refusal.message,
        "remedy": refusal.remedy,
    }


def _warning(warning: PlanWarning) -> Json:
    return {"about": warning.about, "message": warning.message, "remedy": warning.remedy}
