"""`steelyard export`: text for finance, to standard output or a file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document
from billing.cli.output import JsonFlag, show_json, show_note, span
from billing.cli.when import FromOption, PeriodOption, ToOption, ZoneOption, chosen_period
from billing.errors import InvalidInput
from billing.operations.exports.export_csv import export_hledger, export_invoices, export_journal
from billing.period import Period

app = typer.Typer()

_Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where to write; standard output if left out.")
]


@app.command(epilog="Example: steelyard export invoices --period 2026-11 --output invoices.csv")
def invoices(
    *,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    in_zone: ZoneOption = "UTC",
    output: _Output = None,
    as_json: JsonFlag = False,
) -> None:
    """Issued invoices whose billing period overlaps the period: CSV, one row per line."""
    chosen = chosen_period(period=period, since=since, until=until, in_zone=in_zone)
    _export(export_invoices, chosen, in_zone, output, as_json=as_json)


@app.command(epilog="Example: steelyard export journal --from 2026-10-01 --to 2027-01-01")
def journal(
    *,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    in_zone: ZoneOption = "UTC",
    output: _Output = None,
    as_json: JsonFlag = False,
) -> None:
    """The money journal: CSV, one row per posting at 12 decimals."""
    chosen = chosen_period(period=period, since=since, until=until, in_zone=in_zone)
    _export(export_journal, chosen, in_zone, output, as_json=as_json)


@app.command(epilog="Example: steelyard export hledger --period 2026-11 | hledger -f - balance")
def hledger(
    *,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    in_zone: ZoneOption = "UTC",
    output: _Output = None,
    as_json: JsonFlag = False,
) -> None:
    """The money journal as plain text that hledger reads."""
    chosen = chosen_period(period=period, since=since, until=until, in_zone=in_zone)
    _export(export_hledger, chosen, in_zone, output, as_json=as_json)


def _export(
    make_text: Callable[..., str],
    period: Period,
    in_zone: str,
    output: Path | None,
    *,
    as_json: bool,
) -> None:
    with as_operator(snapshot=True) as connection:
        text = make_text(connection, period=period)
    content = text.encode()
    if output is not None:
        _write(output, content)
    if as_json:
        show_json(
            {
                "period": period_document(period),
                "output": None if output is None else str(output),
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "text": text if output is None else None,
            }
        )
        return
    if output is None:
        # The text as it is: CSV ends its lines with CR LF, and nothing may translate them.
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    show_note(f"{len(text.splitlines())} lines for {span(period, in_zone)}.")


def _write(output: Path, content: bytes) -> None:
    try:
        output.write_bytes(content)
    except OSError as error:
        raise InvalidInput(
            f"cannot be written ({(error.strerror or 'unknown reason').lower()})",
            field="output",
            remedy="check the path and its rights",
        ) from None
