"""`steelyard demo`: a month of a small AI factory in under a minute, checked against itself."""

from __future__ import annotations

import typer

from billing.cli.output import JsonFlag, console

app = typer.Typer()


@app.command(epilog="Example: steelyard demo")
def demo(as_json: JsonFlag = False) -> None:
    """Run a month of a small AI factory, close it, and check every tie-out.

    Real proxy, journal, ledgers, rating and invoices on a database that is gone afterwards; the
    engine, the history and Stripe are simulated. Exits with 1 if two figures differ.
    """
    # Imported here: it loads everything, and `--help` needs none of it.
    from billing.cli.demo.run import run_demo

    run_demo(as_json=as_json, console=console())
