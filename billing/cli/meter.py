"""`steelyard meter`: what is counted, as files and as stored versions."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_members, show_table
from billing.cli.sources import read_bytes
from billing.cli.when import clock
from billing.metering.meter import MeterVersion
from billing.planfiles.meter_file import dump_meter

app = typer.Typer()


@app.command(
    epilog="Example: steelyard meter define meters/*.yaml (to start from: "
    "billing/planfiles/examples/meters/context-tokens.yaml, active-users.yaml, long-batches.yaml)"
)
def define(
    *,
    paths: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML meter files.")],
    as_json: JsonFlag = False,
) -> None:
    """Store meter files as new versions, all or none; an unchanged meter stores nothing."""
    from billing.cli.connect import as_operator
    from billing.operations.metering.define_meter import DefinedMeter, define_meter

    defined: list[DefinedMeter] = []
    with as_operator() as connection:
        for path in paths:
            with refused_in(path):
                defined.append(define_meter(connection, read_bytes(path), now=clock()))
    if as_json:
        documents = [{**dump_meter(each.version), "created": each.created} for each in defined]
        show_json({"meters": documents})
    else:
        show_table(
            "Meters",
            (*_COLUMNS, "stored"),
            [
                (*_row(each.version), "new version" if each.created else "unchanged")
                for each in defined
            ],
        )


@app.command("list", epilog="Example: steelyard meter list")
def list_all(as_json: JsonFlag = False) -> None:
    """List all versions of all meters, the built-in ones too."""
    from billing.cli.connect import as_operator
    from billing.operations.metering.define_meter import list_meters

    with as_operator() as connection:
        versions = list_meters(connection)
    if as_json:
        show_json({"meters": [dump_meter(version) for version in versions]})
    else:
        show_table("Meters", _COLUMNS, [_row(version) for version in versions])


@app.command(epilog="Example: steelyard meter show gpu.hours")
def show(
    *,
    code: Annotated[str, typer.Argument(metavar="CODE", help="Code of a meter.")],
    as_json: JsonFlag = False,
) -> None:
    """Show every version of a meter and how it reads events."""
    from billing.cli.connect import as_operator
    from billing.operations.metering.define_meter import require_meter

    with as_operator() as connection:
        versions = require_meter(connection, code)
    if as_json:
        show_json({"meters": [dump_meter(version) for version in versions]})
        return
    for version in versions:
        show_members(f"{code} version {version.version}", _members(version))


_COLUMNS = ("meter", "#version", "unit", "aggregation", "state", "event type", "from")


def _row(version: MeterVersion) -> tuple[object, ...]:
    meter = version.meter
    return (
        meter.code,
        version.version,
        meter.unit,
        _aggregation(version),
        meter.aggregation.state.value,
        version.reading.event_type if version.reading else "built in",
        version.effective_from,
    )


def _aggregation(version: MeterVersion) -> str:
    meter = version.meter
    name = meter.aggregation.value.replace("_", " ")
    return name if meter.percentile is None else f"{name} {meter.percentile.normalize():f}"


def _members(version: MeterVersion) -> list[tuple[str, object]]:
    members: list[tuple[str, object]] = [
        ("unit", version.meter.unit),
        ("aggregation", _aggregation(version)),
        ("state", version.meter.aggregation.state.value),
        ("effective_from", version.effective_from),
    ]
    reading = version.reading
    if reading is None:
        return members
    members += [("event_type", reading.event_type), ("value", reading.value or "1 per event")]
    members += [("where", f"{path} = {text}") for path, text in reading.where]
    if reading.filter is not None:
        members.append(("filter", reading.filter))
    for each in reading.dimensions:
        bands = f", bands at {', '.join(f'{edge:f}' for edge in each.edges)}" if each.edges else ""
        members.append(("dimension", f"{each.name} from {each.path}{bands}"))
    return members
