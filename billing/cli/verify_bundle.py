"""`steelyard verify-bundle`: verify a month of sealed usage from a file, without a database."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from billing.cli.output import JsonFlag, show_json, show_note, show_table, show_text
from billing.cli.sources import read_bytes
from billing.errors import InvalidInput
from billing.money import plain
from billing.verifier import BundleFile, verify_document

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
    try:
        with _on_disk(file, field="file") as path:
            earlier = None if kept is None else BundleFile(kept)
            result = verify_document(BundleFile(str(path)), kept=earlier, public_key=public_key)
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError):
        raise InvalidInput(
            "not a bundle", field="file", remedy="make one with `steelyard ledger bundle`"
        ) from None
    if as_json:
        shown = {meter: plain(quantity) for meter, quantity in sorted(result.totals.items())}
        show_json({"problems": result.problems, "totals": shown})
    elif result.problems:
        show_table("Does not hold", ("problem",), [(problem,) for problem in result.problems])
    else:
        show_text(f"All {result.entries} sealed events hold.", style="green")
        show_table("Usage of the month", ("meter", "#quantity"), sorted(result.totals.items()))
        if earlier is None and public_key is None:
            show_note("Keep this file and pass it as --kept the next time: an omission shows then.")
    if result.problems:
        raise typer.Exit(1)


@contextmanager
def _on_disk(path: str, *, field: str) -> Generator[Path]:
    """The bundle as a file that can be read twice: standard input is copied to one."""
    if path != "-":
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile(prefix="steelyard-bundle-") as copy:
        copy.write(read_bytes(path, field=field))
        copy.flush()
        yield Path(copy.name)
