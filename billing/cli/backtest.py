"""`steelyard backtest`: what a plan would have made of usage that was recorded."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from billing.cli.backtest_report import csv_report, html_report
from billing.cli.connect import as_operator
from billing.cli.failure import refused_in
from billing.cli.output import (
    JsonFlag,
    amount,
    progress,
    show_json,
    show_note,
    show_nothing,
    show_table,
    show_text,
)
from billing.cli.sources import read_bytes
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.exports.csv_text import instant_text
from billing.money import Money
from billing.operations.rating.backtest import backtest as compare
from billing.operations.rating.backtest import read_candidate
from billing.operations.rating.comparison import Change, Comparison
from billing.period import parse_month, zone

app = typer.Typer()

MONTHS_MAX = 120
TOP = 10
"""Tenants that a terminal shows at each end; files hold all."""
BAR = 40


@app.command(
    epilog="Example: steelyard backtest --plan new.yaml --period 2026-08..2026-10 --out report.html"
)
def backtest(
    *,
    plan: Annotated[str, typer.Option(metavar="FILE", help="Plan as YAML; - is standard input.")],
    period: Annotated[
        str,
        typer.Option(metavar="YYYY-MM[..YYYY-MM]", help="Billing periods that begin in these."),
    ],
    tenant: Annotated[
        list[str] | None, typer.Option(help="Only this tenant; may be repeated.")
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="Of a plan in several; left out: its first."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report, .html or .csv.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rate recorded usage under another plan: revenue, who pays more, what has no price.

    The plan stands in for all contracts of tenants in its currency; nothing is written to the
    database. Amounts are those of invoices, before credits and tax.
    """
    months = read_months(period)
    if out is not None and out.suffix not in {".html", ".csv"}:
        raise InvalidInput("neither .html nor .csv", field="out", remedy="name report.html")
    now = clock()
    with as_operator(snapshot=True) as connection:
        with refused_in(plan):
            text = read_bytes(plan, field="plan")
            candidate = read_candidate(connection, text, currency=currency)
        with progress(hidden=as_json) as bar:
            task = bar.add_task("Rating", total=None)
            found = compare(
                connection,
                plan=candidate,
                months=months,
                tenants=tenant,
                now=now,
                told=lambda done, of: bar.update(task, completed=done, total=of),
            )
    if out is not None:
        _write(out, found, now)
    if as_json:
        show_json(_document(found))
    else:
        _show(found)
    if out is not None and not as_json:
        show_note(f"Wrote {out}.")


def read_months(text: str) -> list[tuple[int, int]]:
    """The months of `YYYY-MM` or `YYYY-MM..YYYY-MM`, both ends included.

    Raises:
        InvalidInput: malformed, the wrong way round, or too many.
    """
    head, _, tail = text.partition("..")
    ends = [parse_month(each, zone("UTC")).start for each in (head, tail or head)]
    first, last = (each.year * 12 + each.month - 1 for each in ends)
    if not 0 <= last - first < MONTHS_MAX:
        raise InvalidInput(
            "the wrong way round, or too long",
            field="period",
            remedy=f"at most {MONTHS_MAX} months, like 2026-08..2026-10",
        )
    return [(each // 12, each % 12 + 1) for each in range(first, last + 1)]


def _write(out: Path, found: Comparison, now: datetime) -> None:
    text = html_report(found, now=now) if out.suffix == ".html" else csv_report(found)
    try:
        out.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidInput(
            f"cannot be written ({(error.strerror or 'unknown reason').lower()})",
            field="out",
            remedy="check the path and its rights",
        ) from None


def _show(found: Comparison) -> None:
    for each in found.left_out:
        show_note(f"Left out: {each.tenant}, {each.reason}.")
    if not found.periods:
        show_nothing("No usage was compared.", then="steelyard contract list")
        return
    tenants = found.tenants()
    code = found.currency.code
    show_table(
        f"Revenue under {found.plan.slug} beside the contracts ({code})",
        ("month", "#contracts", "#plan", "#difference", "#%"),
        [_row(found, each) for each in found.months()],
        footer=_row(found, found.total()),
    )
    show_table(
        "Tenants by what changes for them",
        ("change", "#tenants", ""),
        [(name, n, bar_of(n, len(tenants))) for name, n in found.distribution()],
    )
    more = [each for each in tenants if each.difference > 0][:TOP]
    less = [each for each in reversed(tenants) if each.difference < 0][:TOP]
    for title, rows in (("Who pays more", more), ("Who pays less", less)):
        if rows:
            shown = [_row(found, each) for each in rows]
            show_table(title, ("tenant", "#contracts", "#plan", "#difference", "#%"), shown)
    if unpriced := found.unpriced():
        show_table(
            "Usage that the plan does not price: it would block invoices",
            ("meter", "model", "#quantity", "#tenants"),
            [(each.meter, each.model, each.quantity, each.tenants) for each in unpriced],
        )
    for level, n in found.read_from().items():
        show_text(f"Read from {level}: {n:,} tenants.", style="dim")


def _row(found: Comparison, change: Change) -> tuple[object, ...]:
    before, after, difference = (
        amount(_major(found, minor)) for minor in (change.before, change.after, change.difference)
    )
    return change.name, before, after, difference, _percent(change)


def _percent(change: Change) -> str | None:
    percent = change.percent()
    return None if percent is None else f"{percent:+,f}"


def bar_of(part: int, whole: int) -> str:
    """A bar as long as its part of a whole; what is not nothing is seen."""
    return "█" * -(-BAR * part // whole) if part else ""


def _major(found: Comparison, minor: int) -> Decimal:
    return Money(minor=minor, currency=found.currency).major()


def _document(found: Comparison) -> dict[str, object]:
    return {
        "plan": found.plan.slug,
        "currency": found.currency.code,
        "watermark": found.watermark,
        "total": _change_document(found, found.total()),
        "months": [_change_document(found, each) for each in found.months()],
        "tenants": [_change_document(found, each) for each in found.tenants()],
        "periods": [
            {
                "tenant": each.tenant,
                "from": instant_text(each.period.start),
                "to": instant_text(each.period.end),
                "before": _major(found, each.before),
                "after": _major(found, each.after),
                "read_from": each.level.value,
            }
            for each in found.periods
        ],
        "distribution": [{"change": name, "tenants": n} for name, n in found.distribution()],
        "unrated": [
            {
                "meter": each.meter,
                "model": each.model,
                "quantity": each.quantity,
                "tenants": each.tenants,
            }
            for each in found.unpriced()
        ],
        "left_out": [{"tenant": each.tenant, "reason": each.reason} for each in found.left_out],
    }


def _change_document(found: Comparison, change: Change) -> dict[str, object]:
    return {
        "name": change.name,
        "before": f"{_major(found, change.before):f}",
        "after": f"{_major(found, change.after):f}",
        "difference": f"{_major(found, change.difference):f}",
        "percent": change.percent(),
    }
