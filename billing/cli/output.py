"""What commands print: tables for people, JSON for machines, and what to do where nothing is.

Decides looks only. Numbers stand right-aligned and grouped in tables; in JSON amounts and
quantities are text, times RFC 3339 in UTC.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from billing.exports.csv_text import instant_text
from billing.money import plain
from billing.period import Period
from billing.rating.step import figure

PIPE_COLUMNS = 240
"""Width where no terminal sets one: a table that is searched or copied must not wrap."""

_JSON = "steelyard.json"


def _remember(context: typer.Context, as_json: bool) -> bool:
    # Errors are reported by the root command, which never sees the options of a subcommand.
    if as_json:
        context.meta[_JSON] = True
    return as_json


JsonFlag = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Write one JSON object for machines; amounts are text.",
        callback=_remember,
        is_eager=True,
        show_default=False,
    ),
]


def is_json(context: typer.Context) -> bool:
    """Whether the command that ran was asked for JSON."""
    return bool(context.meta.get(_JSON))


def console(*, stderr: bool = False) -> Console:
    """A console on today's standard output; plain and wide where that is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    wide = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, highlight=False, width=PIPE_COLUMNS if wide else None)


def show_json(document: object) -> None:
    """Print one JSON object."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_json_text))


def show_text(text: str, *, style: str = "") -> None:
    """Print a line for people. Text from outside is never read as markup."""
    console().print(Text(text, style=style), soft_wrap=True)


def show_note(text: str) -> None:
    """Print a line beside the output, to standard error."""
    console(stderr=True).print(Text(text, style="dim"), soft_wrap=True)


def show_nothing(what: str, *, then: str) -> None:
    """Say that there is nothing, and what to do next."""
    show_text(what)
    show_text(f"  try: {then}", style="dim")


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    footer: Sequence[object] | None = None,
) -> None:
    """Print a table. A column with a `#` before its name holds numbers, aligned to the right."""
    table = Table(title=Text(title), title_justify="left", show_footer=footer is not None)
    for position, column in enumerate(columns):
        table.add_column(
            Text(column.removeprefix("#")),
            justify="right" if column.startswith("#") else "left",
            footer=cell(footer[position]) if footer else "",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(cell(value) for value in row))
    console().print(table)


def show_members(title: str, members: Iterable[tuple[str, object]]) -> None:
    """Print the members of one thing, one per line."""
    table = Table(title=Text(title), title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in members:
        table.add_row(Text(name.replace("_", " ")), cell(value))
    console().print(table)


def show_document(title: str, document: Mapping[str, object], *, as_json: bool) -> None:
    """Print one thing: its members for people, or the same as one JSON object."""
    if as_json:
        show_json(document)
    else:
        show_members(title, document.items())


def cell(value: object) -> Text:
    """A value as it stands in a table."""
    match value:
        case None:
            return Text("-", style="dim")
        case Text():
            return value
        case bool():
            return Text("yes" if value else "no")
        case int() | Decimal():
            return Text(figure(Decimal(value)))
        case datetime():
            return Text(f"{value:%Y-%m-%d %H:%M}Z")
        case _:
            return Text(str(value))


def amount(number: Decimal, code: str = "") -> str:
    """An amount with all the decimals that it has, thousands grouped."""
    return f"{number:,f} {code}".rstrip()


def span(period: Period, zone: str = "UTC") -> str:
    """A period by the first and the last day of a zone, or by its instants if it has others."""
    start, end = (at.astimezone(ZoneInfo(zone)) for at in (period.start, period.end))
    form = "%Y-%m-%d" if start.time() == end.time() == datetime.min.time() else "%Y-%m-%d %H:%M"
    return f"{start:{form}} to before {end:{form}} ({zone})"


def progress(*, hidden: bool) -> Progress:
    """A progress bar on standard error; silent for machines and where there is no terminal."""
    on = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=on,
        disable=hidden or not on.is_terminal,
        transient=True,
    )


def _json_text(value: Any) -> str:
    match value:
        case Decimal():
            return plain(value)
        case datetime():
            return instant_text(value)
        case _:
            return str(value)
