"""`steelyard verify-bundle`: verify a month of sealed usage from a file, without a database."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from billing.cli.output import JsonFlag, show_json, show_note, show_table, show_text
from billing.cli.sources import read_bytes, text_of
from billing.errors import InvalidInput
from billing.money import plain
from billing.verifier import totals_of, verify_bundle

app = typer.Typer()


@app.command(
    "verify-bundle", epilog="Example: steelyard verify-bundle november.json --kept october.json"
)
def verify(
    *,
    file: Annotated[str, typer.Argument(help="The bundle; - is standard input.")],
    kept: Annotated[
        str | None, typer.Option("--kept", "--kept-head", help="A head or bundle kept from before.")
    ] = None,
    public_key: Annotated[
        str | None, typer.Option(help="The operator's key as you know it, hexadecimal.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify a month of sealed usage, offline; exit status 1 names what is wrong."""
    bundle = _read(file, field="file")
    earlier = None if kept is None else _read(kept, field="kept")
    try:
        problems = verify_bundle(bundle, kept=earlier, public_key=public_key)
        totals = totals_of(bundle)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise _unreadable("file") from None
    if as_json:
        shown = {meter: plain(quantity) for meter, quantity in sorted(totals.items())}
        show_json({"problems": problems, "totals": shown})
    elif problems:
        show_table("Does not hold", ("problem",), [(problem,) for problem in problems])
    else:
        show_text(f"All {len(bundle['entries'])} sealed events hold.", style="green")
        show_table("Usage of the month", ("meter", "#quantity"), sorted(totals.items()))
        if earlier is None and public_key is None:
            show_note("Keep this file and pass it as --kept the next time: an omission shows then.")
    if problems:
        raise typer.Exit(1)


def _read(path: str, *, field: str) -> dict[str, Any]:
    try:
        document = json.loads(text_of(read_bytes(path, field=field), field=field))
    except ValueError:
        raise _unreadable(field) from None
    if not isinstance(document, dict):
        raise _unreadable(field)
    return document  # pyright: ignore[reportUnknownVariableType]  # JSON of any shape


def _unreadable(field: str) -> InvalidInput:
    return InvalidInput(
        "not a bundle", field=field, remedy="make one with `steelyard ledger bundle`"
    )
