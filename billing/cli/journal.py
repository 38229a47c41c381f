"""`steelyard journal`: the proxies' journals of this host, booked again, and what was refused."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

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
from billing.cli.when import clock, instant
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.journal.records import Usage, Void, decode
from billing.operations.deployment import journal_dir
from billing.operations.restore.replay_journal import replay_journals
from billing.operations.restore.resolve_refused import book_refused, dismiss_refused
from billing.settings import read_settings
from billing.store.refused import RefusedRow, refused

app = typer.Typer()

ACTOR = "command line"
"""Who decided, where an operator did at a terminal."""

FolderOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the journals; that of this deployment if left out."),
]


@app.command(epilog="Example: steelyard journal replay --since 2026-11-21T14:00:00Z")
def replay(
    *,
    since: Annotated[
        str | None,
        typer.Option(metavar="INSTANT", help="Only segments written at or after this instant."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every segment that is kept.")] = False,
    folder: FolderOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Book kept journals again; what the ledger knows changes nothing.

    For a database that was restored from a backup. The ledger writer may run meanwhile.
    """
    if every == (since is not None):
        raise InvalidInput("which segments?", field="since", remedy="use --since INSTANT, or --all")
    start = None if since is None else instant(since, in_zone="UTC", field="since")
    directory = folder or journal_dir(read_settings())
    with connected() as database, progress(hidden=as_json) as bar:
        task = bar.add_task("replaying", total=None)
        done = replay_journals(
            database,
            directory,
            since=start,
            now=clock(),
            progress=lambda begun, in_all: bar.update(task, completed=begun, total=in_all),
        )
    counts: dict[str, Any] = {
        "new": done.new,
        "known": done.known,
        "attempts": done.attempts,
        "refused": done.refused,
        "archived": done.archived,
    }
    if as_json:
        show_json({**counts, "damaged": done.damaged})
    else:
        show_members("Replayed", counts.items())
        for damage in done.damaged:
            show_note(f"damaged: {damage}")
    if done.damaged:
        raise typer.Exit(REFUSED)


@app.command("refused", epilog="Example: steelyard journal refused")
def show_refused(
    *,
    book: Annotated[
        UUID | None, typer.Option(metavar="EVENT", help="Book this one, now that it is mended.")
    ] = None,
    dismiss: Annotated[
        UUID | None, typer.Option(metavar="EVENT", help="Never book this one.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for who asks later.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """Show journal records that the ledger did not take, newest first, or decide about one."""
    if book is None and dismiss is None:
        _list_refused(limit, as_json=as_json)
        return
    if book is not None and dismiss is not None:
        raise InvalidInput("book it or dismiss it?", field="book", remedy="name one of the two")
    if reason is None:
        raise InvalidInput("a decision has a reason", field="reason", remedy="add --reason TEXT")
    with as_operator() as connection:
        decided = (
            book_refused(connection, book, reason=reason, actor=ACTOR, now=clock())
            if book is not None
            else dismiss_refused(
                connection, cast("UUID", dismiss), reason=reason, actor=ACTOR, now=clock()
            )
        )
    if as_json:
        show_json({"resolved": [asdict(each) for each in decided]})
    else:
        for each in decided:
            show_text(f"{each.outcome} {each.kind} {each.event_id}: {each.reason}")


def _list_refused(limit: int, *, as_json: bool) -> None:
    with as_operator() as connection:
        rows = [_members(row) for row in refused(connection, limit=limit)]
    if as_json:
        show_json({"refused": rows})
    elif not rows:
        show_nothing("No refused record waits for a decision.", then="steelyard db restore-check")
    else:
        show_table(
            "Refused journal records",
            ("event", "kind", "tenant", "#input", "#output", "reason", "journal", "#segment"),
            [
                (
                    row["event_id"], row["kind"], row["tenant_id"], row["input"], row["output"],
                    row["reason"], row["instance"], row["segment"],
                )
                for row in rows
            ],
        )  # fmt: skip


def _members(row: RefusedRow) -> dict[str, Any]:
    record = decode(row.payload)
    assert isinstance(record, Usage | Void)
    counts = record.counts if isinstance(record, Usage) else None
    return {
        "event_id": str(row.event_id),
        "kind": row.kind,
        "tenant_id": record.attribution.tenant_id,
        "at_us": record.at_us,
        "input": counts and counts.input,
        "cached_input": counts and counts.cached_input,
        "cache_write": counts and counts.cache_write,
        "output": counts and counts.output,
        "reason": row.reason,
        "instance": row.instance,
        "segment": row.segment,
        "page_offset": row.page_offset,
        "refused_at": row.refused_at,
    }
