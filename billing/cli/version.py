"""`steelyard version`."""

from __future__ import annotations

from importlib.metadata import version as installed

import typer

from billing.cli.output import JsonFlag, show_json, show_text

app = typer.Typer()


@app.command(epilog="Example: steelyard version --json")
def version(*, as_json: JsonFlag = False) -> None:
    """Print the version."""
    number = installed("steelyard")
    if as_json:
        show_json({"version": number})
    else:
        show_text(f"steelyard {number}")
