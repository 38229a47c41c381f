"""`steelyard rate`: price recorded usage with a plan file, without a database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal, localcontext
from typing import IO, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from billing.cli.documents import rated_line_document, unrated_document
from billing.cli.failure import refused_in
from billing.cli.output import (
    JsonFlag,
    amount,
    console,
    show_json,
    show_note,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.plan_check import METERS, read_meters
from billing.cli.sources import STDIN, opened, read_bytes
from billing.cli.when import PeriodOption, ZoneOption
from billing.errors import InvalidInput
from billing.exit_status import REFUSED
from billing.money import EXACT
from billing.period import parse_month, zone
from billing.planfiles.meter_file import declared_by_code, units_by_code
from billing.planfiles.plan_file import book_of, require_price_books
from billing.planfiles.usage_file import LINE_CHARACTERS_MAX
from billing.planfiles.usage_tally import UsageTally, tally
from billing.rating.line import Rating
from billing.rating.pipeline import Slice
from billing.rating.pipeline import rate as rate_usage

_LINE_BYTES_MAX = 4 * LINE_CHARACTERS_MAX
"""What a line of the longest has at most in UTF-8; a longer one is refused by its characters."""

app = typer.Typer()


@app.command(
    epilog="Example: steelyard rate --plan plan.yaml --usage usage.jsonl --period 2026-11\n\n"
    "Lines of usage, one of these to a line:\n\n"
    '{"model": "sim-small", "input": 900, "cached_input": 100, "output": 1200}\n\n'
    '{"meter": "gpu.hours", "quantity": "2.5", "dimensions": {"slice": "whole"}, '
    '"at": "2026-11-02T09:00:00Z"}\n\n'
    '{"meter": "sales.value", "transactions": ["19.90", "5"]}\n\n'
    '{"meter": "seats", "level": 12, "at": "2026-11-10T00:00:00Z"}\n\n'
    '{"meter": "active.users", "value": "user-17"}\n\n'
    "model, dimensions and at may be left out where no price asks for them. Numbers with a point "
    'are text. A level holds until the next one; without "at", from the start of the period.'
)
def rate(
    *,
    plan: Annotated[str, typer.Option(metavar="FILE", help="Plan as YAML; - is standard input.")],
    usage: Annotated[
        str, typer.Option(metavar="FILE", help="Usage as JSON Lines; - is standard input.")
    ],
    meters: Annotated[list[str] | None, METERS] = None,
    period: PeriodOption = None,
    in_zone: ZoneOption = "UTC",
    in_currency: Annotated[
        str | None,
        typer.Option(
            "--currency", metavar="CODE", help="Of a plan of several; its own if left out."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rate a billing period's usage: every line with its arithmetic, as an invoice would have it.

    Usage whose time is outside --period is left out. Exits with 1 if some usage has no price.
    """
    if plan == usage == STDIN:
        raise InvalidInput(
            "plan and usage cannot both be standard input", field="usage", remedy="name a file"
        )
    clock = zone(in_zone)
    covered = None if period is None else parse_month(period, clock)
    declared = declared_by_code(read_meters(meters or ()))
    with refused_in(plan):
        plans = require_price_books(read_bytes(plan, field="plan"), meters=declared)
    price_plan = book_of(plans, in_currency)
    counted = UsageTally(plan=price_plan, meters=declared, period=covered, zone=clock)
    with refused_in(usage), opened(usage, field="usage") as source:
        quantities = tally(_lines(source, quiet=as_json), counted)
    part = Slice(covered=covered, zone=clock)
    rating = rate_usage(price_plan, quantities, of=part, units=units_by_code(declared))
    if as_json:
        show_json(
            {
                "plan": price_plan.slug,
                "period": period,
                "currency": rating.currency.code,
                "lines": [rated_line_document(line) for line in rating.lines],
                "total": f"{_total(rating):f}",
                "unrated": [unrated_document(row) for row in rating.unrated],
                "outside_period": str(counted.outside),
            }
        )
    else:
        _show(rating)
        if counted.outside:
            show_note(f"{counted.outside:,} lines of usage are outside the period and left out.")
    if rating.unrated:
        raise typer.Exit(REFUSED)


def _lines(source: IO[bytes], *, quiet: bool) -> Iterator[str]:
    """The lines of a file, read as they are asked for; a bar shows how far a long one is."""
    with _bar(quiet=quiet) as bar:
        reading = bar.add_task("reading usage", total=_size(source))
        number, read = 0, 0
        while raw := source.readline(_LINE_BYTES_MAX):
            number, read = number + 1, read + len(raw)
            try:
                # A line that is cut is too long, whatever its last character was.
                yield raw.decode(
                    "utf-8-sig" if number == 1 else "utf-8",
                    "replace" if len(raw) == _LINE_BYTES_MAX else "strict",
                )
            except UnicodeDecodeError:
                raise InvalidInput(
                    "not UTF-8 text", field=f"line {number}", remedy="save the file as UTF-8"
                ) from None
            if number % 1_000 == 0:
                bar.update(reading, completed=read)


def _size(source: IO[bytes]) -> int | None:
    # A pipe has no size to compare with.
    with suppress(OSError, ValueError):
        return os.fstat(source.fileno()).st_size or None
    return None


def _bar(*, quiet: bool) -> Progress:
    on = console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=on,
        disable=quiet or not on.is_terminal,
        transient=True,
    )


def _show(rating: Rating) -> None:
    if not rating.lines and not rating.unrated:
        show_nothing("Nothing was used and nothing is due.", then="add usage to the file")
        return
    code = rating.currency.code
    show_table(
        f"Rated lines ({code})",
        ("line", "description", "#quantity", "unit", "#exact", "#amount"),
        [
            (
                line.key,
                line.description,
                line.quantity,
                line.unit,
                line.exact,
                amount(line.amount.major()),
            )
            for line in rating.lines
        ],
        footer=("total", "", "", "", "", amount(_total(rating))),
    )
    for line in rating.lines:
        show_text(line.key, style="bold")
        for step in line.explanation:
            show_text(f"  {step.text}")
    if rating.unrated:
        show_table(
            "Usage that no charge prices: it blocks the invoice",
            ("meter", "model", "#quantity"),
            [(row.meter, row.model, row.quantity) for row in rating.unrated],
        )


def _total(rating: Rating) -> Decimal:
    with localcontext(EXACT):
        return sum((line.amount.major() for line in rating.lines), Decimal(0))
