"""`steelyard ledger`: seal, verify, and what tenants verify for themselves."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from billing.cli.connect import as_operator, connected
from billing.cli.output import (
    JsonFlag,
    progress,
    show_json,
    show_members,
    show_note,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.when import billing_month, clock
from billing.errors import InvalidInput
from billing.operations.invoicing.verify_invoice import verify_invoices
from billing.operations.ledger.verify_ledger import verify_ledger
from billing.operations.retention.archive_month import configured_place
from billing.operations.seal.bundle import bundle_lines, open_bundle
from billing.operations.seal.fold import seal_all, seal_key
from billing.operations.seal.prove import published_keys, signed_head
from billing.operations.tenancy.tenants import require_tenant
from billing.settings import read_settings
from billing.store.seal.folds import folds

app = typer.Typer()

SEAL = "steelyard ledger seal"


@app.command(epilog=f"Example: {SEAL}")
def seal(as_json: JsonFlag = False) -> None:
    """Seal what is not sealed yet; the worker does so all the time."""
    with connected() as database:
        done = seal_all(database, seal_key(read_settings()), now=clock())
    document = {
        "folds": len(done),
        "events": sum(each.events for each in done),
        "transactions": sum(each.transactions for each in done),
    }
    if as_json:
        show_json(document)
    elif not done:
        show_nothing("Nothing new to seal.", then="steelyard ledger heads")
    else:
        show_members("Sealed", document.items())


@app.command(
    epilog="Example: steelyard ledger verify --json\n\nExample: steelyard ledger verify --invoices"
)
def verify(
    *,
    invoices: Annotated[
        bool, typer.Option("--invoices", help="Rate every issued invoice again, too.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Verify seal, archives, rollups, books, credit, receivables; exit status 1: what is wrong."""
    place = configured_place(read_settings())
    with as_operator(snapshot=True) as connection, progress(hidden=as_json) as bar:
        task = bar.add_task("archives", total=None)
        found = verify_ledger(
            connection,
            place,
            progress=lambda part, done, total: bar.update(
                task, description=part, completed=done, total=total
            ),
        )
        if invoices:
            checks = bar.track(verify_invoices(connection), description="invoices", total=None)
            found += [finding for check in checks for finding in check.findings]
        sealed = len(folds(connection))
    if as_json:
        show_json({"signed_heads": sealed, "findings": [asdict(each) for each in found]})
    elif found:
        show_table(
            "Not as it was sealed",
            ("kind", "which", "problem"),
            [(each.kind, each.subject, each.problem) for each in found],
        )
    elif sealed:
        show_text(f"All is as it was sealed, in {sealed} signed heads.", style="green")
    else:
        show_nothing("Rollups, postings and balances are right; nothing was sealed yet.", then=SEAL)
    if found:
        raise typer.Exit(1)


@app.command(epilog="Example: steelyard ledger heads --json")
def heads(as_json: JsonFlag = False) -> None:
    """Show the newest signed head and the keys."""
    with as_operator(snapshot=True) as connection:
        if not folds(connection, limit=1):
            if as_json:
                show_json({"signed_head": None, "keys": []})
            else:
                show_nothing("Nothing was sealed yet.", then=SEAL)
            return
        head, keys = signed_head(connection), published_keys(connection)
    if as_json:
        show_json({"signed_head": head, "keys": keys})
        return
    shown = {name: value for name, value in head.items() if name != "text"}
    show_members("Newest signed head", shown.items())
    show_table(
        "Keys",
        ("id", "public key", "valid from"),
        [(key["id"], key["public_key"], key["valid_from"]) for key in keys],
    )


@app.command(epilog="Example: steelyard ledger bundle acme --month 2026-11 -o acme.json")
def bundle(
    *,
    tenant: Annotated[str, typer.Argument(help="Slug of the tenant.")],
    month: Annotated[str, typer.Option(metavar="YYYY-MM", help="Its billing month.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write.")] = None,
    kept_size: Annotated[
        int | None, typer.Option(help="Reach back to a head of this size that the tenant kept.")
    ] = None,
) -> None:
    """Write what a tenant needs to verify its month offline."""
    place = configured_place(read_settings())
    with as_operator(snapshot=True) as connection:
        owner = require_tenant(connection, tenant)
        made = open_bundle(
            connection, place, owner, billing_month(month, owner), kept_size=kept_size
        )
        if out is None:
            sys.stdout.writelines(bundle_lines(made))
            return
        try:
            with out.open("w", encoding="utf-8") as file:
                file.writelines(bundle_lines(made))
        except OSError:
            raise InvalidInput("cannot be written", field="out", remedy="check the path") from None
    show_note(f"{made.leaves} sealed events in {out}; verify them with")
    show_note(f"  steelyard verify-bundle {out}")


@app.command(epilog="Example: steelyard ledger verifier > verifier.py")
def verifier() -> None:
    """Print the one-file verifier, to run where no Steelyard is."""
    import billing.verifier

    sys.stdout.write(Path(billing.verifier.__file__).read_text(encoding="utf-8"))
