"""`steelyard verify-bundle`: verify a month of sealed usage from a file, without a database."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from billing.cli.failure import refused_in
from billing.cli.output import JsonFlag, show_json, show_note, show_table, show_text
from billing.cli.sources import STDIN, opened, read_bytes
from billing.errors import InvalidInput
from billing.money import plain
from billing.verifier import BundleFile, head_of, verify_document, verify_head

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
    earlier = None if kept is None else _kept(kept)
    remedy = "make one with `steelyard ledger bundle`"
    with _well_formed(file, "file", "not a bundle", remedy), _on_disk(file) as path:
        result = verify_document(BundleFile(str(path)), kept=earlier, public_key=public_key)
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


def _kept(path: str) -> BundleFile:
    """What was kept from before.

    Raises:
        InvalidInput: it cannot be read, or is neither a head nor a bundle.
    """
    remedy = "name the bundle of an earlier month, or a head that you kept"
    wanted = _well_formed(path, "kept", "neither a head nor a bundle", remedy)
    with wanted, opened(path, field="kept"):
        found = BundleFile(path)
        verify_head(head_of(found))
    return found


@contextmanager
def _well_formed(path: str, field: str, refusal: str, remedy: str) -> Generator[None]:
    """Refuse what is JSON of something else, or no JSON, by the file's name."""
    with refused_in(path):
        try:
            yield
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise InvalidInput(refusal, field=field, remedy=remedy) from None


@contextmanager
def _on_disk(path: str) -> Generator[Path]:
    """The bundle as a file that can be read twice: standard input is copied to one."""
    if path != STDIN:
        with opened(path):
            yield Path(path)
        return
    with tempfile.NamedTemporaryFile(prefix="steelyard-bundle-") as copy:
        copy.write(read_bytes(path))
        copy.flush()
        yield Path(copy.name)
