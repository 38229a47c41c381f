"""`steelyard archive`: closed months of usage as files, checked, dropped and read back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date
from typing import Annotated

import typer

from billing.archive.places import ArchivePlace
from billing.cli.connect import connected
from billing.cli.output import (
    JsonFlag,
    progress,
    show_document,
    show_json,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.when import clock
from billing.exit_status import REFUSED
from billing.operations.retention.archive_month import (
    archive_month,
    configured_place,
    drop_month,
    read_back,
)
from billing.operations.retention.verify_archives import verify_archives
from billing.period import parse_month, zone
from billing.settings import read_settings
from billing.store import retention
from billing.store.database import Role
from billing.store.retention import ArchiveRow

app = typer.Typer()

Month = Annotated[str, typer.Argument(metavar="YYYY-MM", help="A calendar month, UTC.")]


@app.command("list", epilog="Example: steelyard archive list")
def list_archives(as_json: JsonFlag = False) -> None:
    """List the newest archive of every month."""
    with connected() as database, database.transaction(Role.OPERATOR) as connection:
        known = retention.archives(connection)
        oldest = retention.horizon(connection)
        held = retention.months(connection)
    if as_json:
        show_json(
            {
                "oldest_kept": oldest,
                "archives": [_members(archive, held) for archive in known],
            }
        )
    elif not known:
        show_nothing("Nothing is archived.", then="steelyard archive create YYYY-MM")
    else:
        show_table(
            "Archives",
            ("month", "#events", "#bytes", "in the database", "archived", "file"),
            [
                (
                    f"{archive.month:%Y-%m}", archive.events, archive.bytes,
                    archive.month in held, archive.archived_at, archive.url,
                )
                for archive in known
            ],
        )  # fmt: skip


@app.command(epilog="Example: steelyard archive create 2026-10")
def create(month: Month, as_json: JsonFlag = False) -> None:
    """Archive a month that is over and sealed, and read the file back."""
    first, place = _month(month), _place()
    with connected() as database, _bar("archiving", hidden=as_json) as advance:
        archive = archive_month(database, place, first, now=clock(), progress=advance)
    show_document("Archived and read back", _members(archive, [first]), as_json=as_json)


@app.command(epilog="Example: steelyard archive verify")
def verify(
    month: Annotated[
        str | None, typer.Argument(metavar="[YYYY-MM]", help="One month; all if left out.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare archives with their checksums, their totals and the seal."""
    place = _place()
    only = None if month is None else _month(month)
    with (
        connected() as database,
        database.transaction(Role.OPERATOR) as connection,
        _bar("verifying", hidden=as_json) as advance,
    ):
        findings = verify_archives(connection, place, month=only, progress=advance)
        checked = len(retention.archives(connection, month=only))
    if as_json:
        show_json(
            {
                "checked": checked,
                "findings": [
                    {"month": f"{found.month:%Y-%m}", "url": found.url, "what": found.what}
                    for found in findings
                ],
            }
        )
    elif findings:
        show_table(
            "Archives that do not hold what they should",
            ("month", "what", "file"),
            [(f"{found.month:%Y-%m}", found.what, found.url) for found in findings],
        )
    else:
        show_text(f"{checked} archives hold what they should.")
    if findings:
        raise typer.Exit(REFUSED)


@app.command(epilog="Example: steelyard archive drop 2026-10")
def drop(month: Month, as_json: JsonFlag = False) -> None:
    """Let an archived month leave the database, after checking its archive once more."""
    first, place, settings = _month(month), _place(), read_settings()
    with connected() as database:
        events = drop_month(
            database, place, first, now=clock(), keep_months=settings.retention_months
        )
    if as_json:
        show_json({"month": month, "events": events})
    else:
        show_text(f"{month} left the database with {events} events; its archive has them.")


@app.command(epilog="Example: steelyard archive restore 2026-10")
def restore(
    month: Month,
    *,
    remove: Annotated[bool, typer.Option(help="Remove the table that was read back.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Read an archived month into a table of its own, to be queried beside the ledger."""
    first, place = _month(month), _place()
    if remove:
        with connected() as database, database.transaction(Role.MAINTAINER) as connection:
            retention.drop_restored(connection, first)
        if as_json:
            show_json({"month": month, "removed": True})
        else:
            show_text(f"The table of {month} is removed.")
        return
    with connected() as database, _bar("reading back", hidden=as_json) as advance:
        table, events = read_back(database, place, first, progress=advance)
    if as_json:
        show_json({"month": month, "table": table, "events": events})
    else:
        show_text(f"{events} events of {month} are in the table {table}.")


def _members(archive: ArchiveRow, held: list[date]) -> dict[str, object]:
    return {
        "month": f"{archive.month:%Y-%m}",
        "url": archive.url,
        "sha256": archive.sha256.hex(),
        "events": archive.events,
        "bytes": archive.bytes,
        "first_epoch": archive.first_epoch,
        "last_epoch": archive.last_epoch,
        "archived_at": archive.archived_at,
        "in_database": archive.month in held,
    }


def _month(text: str) -> date:
    return parse_month(text, zone("UTC")).start.date()


def _place() -> ArchivePlace:
    return configured_place(read_settings())


@contextmanager
def _bar(what: str, *, hidden: bool) -> Generator[Callable[[int, int], None]]:
    with progress(hidden=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, in_all: bar.update(task, completed=done, total=in_all)
