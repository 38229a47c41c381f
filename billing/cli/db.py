"""`steelyard db`: the schema, the partitions and the restore of the deployment's database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from billing.cli.connect import answering, as_operator, connected
from billing.cli.output import (
    JsonFlag,
    show_document,
    show_json,
    show_members,
    show_table,
    show_text,
)
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.operations.deployment import data_dir, journal_dir, running_database
from billing.operations.restore.check_restore import KeptHead, check_restore
from billing.settings import read_settings
from billing.store.database import Role
from billing.store.migrate import migrate
from billing.store.schema_version import current_revision, newest_revision
from billing.store.usage.append import ensure_partitions

app = typer.Typer()


@app.command("migrate", epilog="Example: STEELYARD_MIGRATE_URL=postgresql://… steelyard db migrate")
def migrate_schema(as_json: JsonFlag = False) -> None:
    """Bring the database to the schema of this version, as its owner.

    `STEELYARD_MIGRATE_URL` names the owner's login, `STEELYARD_DATABASE_URL` the application's.
    """
    with answering(), running_database(read_settings()) as urls:
        applied = migrate(urls.owner)
        revision = current_revision(urls.owner)
    if as_json:
        show_json({"applied": applied, "revision": revision})
    elif applied:
        show_text(f"Applied {', '.join(applied)}.")
    else:
        show_text(f"Nothing to do: the schema is at {revision}.")


@app.command(epilog="Example: steelyard db status")
def status(as_json: JsonFlag = False) -> None:
    """Show which database is used and whether its schema is the one of this version."""
    settings = read_settings()
    with answering(), running_database(settings) as urls:
        revision = current_revision(urls.owner)
        embedded = urls.embedded
    newest = newest_revision()
    members = {
        "database": "embedded" if embedded else "STEELYARD_DATABASE_URL",
        "data_dir": str(data_dir(settings)) if embedded else None,
        "revision": revision,
        "newest": newest,
        "up_to_date": revision == newest,
    }
    show_document("Database", members, as_json=as_json)
    if revision != newest:
        show_text("  try: steelyard db migrate", style="dim")


@app.command(epilog="Example: steelyard db partitions --months 6")
def partitions(
    *,
    months: Annotated[
        int, typer.Option(min=0, max=120, help="This month and so many after it.")
    ] = 3,
    as_json: JsonFlag = False,
) -> None:
    """Make the monthly partitions of the usage ledger ahead of time; those that exist stay."""
    with connected() as database, database.transaction(Role.MAINTAINER) as connection:
        made = ensure_partitions(connection, now=clock(), months=months)
    if as_json:
        show_json({"months": months, "made": made})
    else:
        show_text(f"{made} made; this month and the next {months} have one.")


@app.command("restore-check", epilog="Example: steelyard db restore-check")
def restore_check(
    *,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of the journals; that of this deployment if left out."),
    ] = None,
    kept_head: Annotated[
        str | None,
        typer.Option(metavar="SIZE:ROOT", help="A signed head that was kept: size and root (hex)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a database that was restored from a backup is missing, and how to get it back."""
    directory = folder or journal_dir(read_settings())
    head = None if kept_head is None else _kept_head(kept_head)
    with as_operator() as connection:
        check = check_restore(connection, directory, kept_head=head)
    members = {
        "journals": check.instances,
        "records_kept": check.records,
        "records_missing": check.missing,
    }
    if as_json:
        findings = [
            {
                "code": found.code,
                "journal": found.instance,
                "what": found.what,
                "remedy": found.remedy,
                "lost": found.lost,
            }
            for found in check.findings
        ]
        show_json({**members, "findings": findings})
    else:
        show_members("Compared with the journals", members.items())
        if check.findings:
            show_table(
                "Missing",
                ("journal", "what", "lost", "remedy"),
                [(found.instance, found.what, found.lost, found.remedy)
                 for found in check.findings],
            )  # fmt: skip
        else:
            show_text("Nothing is missing.")
    if check.findings:
        raise typer.Exit(REFUSED)


def _kept_head(text: str) -> KeptHead:
    size, _, root = text.partition(":")
    try:
        return KeptHead(size=int(size), root=bytes.fromhex(root))
    except ValueError:
        raise InvalidInput(
            "not a head", field="kept-head", remedy="write it as SIZE:ROOT, the root in hex"
        ) from None
