"""`steelyard db`: the schema and the partitions of the deployment's database."""

from __future__ import annotations

from typing import Annotated

import typer

from billing.cli.connect import answering, connected
from billing.cli.output import JsonFlag, show_json, show_members, show_text
from billing.cli.when import clock
from billing.operations.deployment import data_dir, running_database
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
    if as_json:
        show_json(members)
        return
    show_members("Database", members.items())
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
