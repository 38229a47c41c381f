"""A backtest as a file: a page with charts that stands by itself, or a table for a spreadsheet.

Decides looks only. Everything from outside is escaped, and the page loads nothing. Lengths are
whole pixels, worked out from minor units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from billing.exports.csv_text import csv_text
from billing.money import Money
from billing.operations.rating.comparison import Change, Comparison

WIDTH, ROW, LABEL = 760, 22, 190
"""Pixels: of a chart, of a bar with its gap, of the names beside the bars."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem; text-align: right; }
th { border-bottom: 1px solid #8a94a3; } td:first-child, th:first-child { text-align: left; }
td { font-variant-numeric: tabular-nums; } .more { color: #9c2f2f; } .less { color: #1f6b45; }
svg text { font: 13px system-ui, sans-serif; fill: #1c2430; } .note { color: #596474; }
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1>
<p>{headline}</p>
<h2>Revenue by month ({code})</h2>
{months}
<p class="note">Above each other: under the contracts (grey), under the plan (blue).</p>
{month_table}
<h2>Tenants by what changes for them</h2>
{distribution}
<h2>Tenants</h2>
{tenant_table}
{rest}
<p class="note">{source}</p>
</body></html>
"""
_GREY, _BLUE = "#9aa4b2", "#2f6fb0"


def csv_report(found: Comparison) -> str:
    """One row per tenant and billing period."""
    return csv_text(
        (
            "tenant", "period_start", "period_end", "currency", "before", "after", "difference",
            "read_from",
        ),
        [
            (
                each.tenant,
                each.period.start,
                each.period.end,
                found.currency.code,
                *(
                    Money(minor=minor, currency=found.currency).major()
                    for minor in (each.before, each.after, each.after - each.before)
                ),
                each.level.value,
            )
            for each in found.periods
        ],
    )  # fmt: skip


def html_report(found: Comparison, *, now: datetime) -> str:
    """A page with the figures, charts and all tenants."""
    total, months, tenants = found.total(), found.months(), found.tenants()
    more = sum(each.difference > 0 for each in tenants)
    less = sum(each.difference < 0 for each in tenants)
    return _PAGE.format(
        title=f"Backtest of {escape(found.plan.name)}",
        style=_STYLE,
        code=found.currency.code,
        headline=(
            f"{len(tenants):,} tenants: {_money(found, total.before)} under their contracts, "
            f"{_money(found, total.after)} under the plan, a difference of "
            f"{_money(found, total.difference)}{_percent(total, ' (%s)')}. "
            f"{more:,} pay more, {less:,} less, {len(tenants) - more - less:,} the same."
        ),
        months=_month_chart(found, months),
        month_table=_changes("month", found, (*months, total)),
        distribution=_bars([(name, n, f"{n:,}") for name, n in found.distribution()]),
        tenant_table=_changes("tenant", found, tenants),
        rest=_unpriced(found) + _left_out(found),
        source=(
            f"Made {now:%Y-%m-%d %H:%M} UTC from usage up to epoch {found.watermark}; amounts are "
            "those of invoices, before credits and tax. Read from: "
            + ", ".join(f"{level} ({n:,} tenants)" for level, n in found.read_from().items())
            + "."
        ),
    )


def _month_chart(found: Comparison, months: Sequence[Change]) -> str:
    largest = max((abs(n) for each in months for n in (each.before, each.after)), default=0)
    parts: list[str] = []
    for position, each in enumerate(months):
        top = position * (2 * ROW + 8)
        parts.append(_label(top + ROW, each.name))
        for offset, minor, colour in ((0, each.before, _GREY), (ROW, each.after, _BLUE)):
            parts.append(_bar(top + offset, minor, largest, colour, _money(found, minor)))
    return _svg(len(months) * (2 * ROW + 8), parts)


def _bars(rows: Sequence[tuple[str, int, str]]) -> str:
    largest = max((n for _, n, _ in rows), default=0)
    parts = [
        part
        for position, (name, n, text) in enumerate(rows)
        for part in (
            _label(position * ROW + 15, name),
            _bar(position * ROW, n, largest, _BLUE, text),
        )
    ]
    return _svg(len(rows) * ROW, parts)


def _svg(height: int, parts: Iterable[str]) -> str:
    head = f'<svg role="img" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return f"{head}{''.join(parts)}</svg>"


def _label(bottom: int, text: str) -> str:
    return f'<text x="0" y="{bottom}">{escape(text)}</text>'


def _bar(top: int, length: int, largest: int, colour: str, text: str) -> str:
    room = WIDTH - 2 * LABEL
    width = max(length, 0) * room // largest if largest else 0
    return (
        f'<rect x="{LABEL}" y="{top + 3}" width="{width}" height="{ROW - 6}" fill="{colour}"/>'
        f'<text x="{LABEL + width + 6}" y="{top + 15}">{escape(text)}</text>'
    )


def _changes(what: str, found: Comparison, changes: Iterable[Change]) -> str:
    rows = [
        (
            escape(each.name),
            *(_money(found, n) for n in (each.before, each.after)),
            f'<span class="{_direction(each)}">{_money(found, each.difference)}</span>',
            _percent(each, "%s"),
        )
        for each in changes
    ]
    return _table((what, "contracts", "plan", "difference", "%"), rows)


def _unpriced(found: Comparison) -> str:
    rows = [
        (
            escape(each.meter),
            escape(each.model or "-"),
            f"{each.quantity:,f}",
            f"{each.tenants:,}",
        )
        for each in found.unpriced()
    ]
    if not rows:
        return ""
    title = "<h2>Usage that the plan does not price: it would block invoices</h2>"
    return title + _table(("meter", "model", "quantity", "tenants"), rows)


def _left_out(found: Comparison) -> str:
    rows = [(escape(each.tenant), escape(each.reason)) for each in found.left_out]
    return f"<h2>Left out</h2>{_table(('tenant', 'reason'), rows)}" if rows else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _direction(change: Change) -> str:
    return "more" if change.difference > 0 else "less"


def _percent(change: Change, form: str) -> str:
    percent = change.percent()
    return "" if percent is None else form % f"{percent:+,f} %"


def _money(found: Comparison, minor: int) -> str:
    return f"{Money(minor=minor, currency=found.currency).major():,f}"
