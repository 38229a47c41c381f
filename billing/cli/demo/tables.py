"""What the demo prints, as tables for people and as one document for machines."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from babel.numbers import format_currency
from rich.console import Console
from rich.table import Table

from billing.cli.demo.close import Closed
from billing.cli.demo.scene import Scene
from billing.cli.demo.tie_outs import TieOut
from billing.margin.figures import percent_for_display
from billing.margin.report import GroupBy, MarginReport, MarginRow
from billing.money import currency, from_minor, plain

LOCALE = "en_US"
USD = "USD"


def print_usage(console: Console, scene: Scene, *, live: int, streamed: int) -> None:
    """What went into the usage ledger."""
    counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(scene.verdicts.items()))
    console.print(f"[bold]Usage[/bold]  {scene.period}")
    console.print(f"  history reported by file: {counts}")
    console.print(
        f"  live through the proxy:   {live} requests, {streamed} of them streams "
        "(engine simulated, tokens exact)"
    )


def print_invoices(console: Console, closed: Closed) -> None:
    """Every invoice with its lines."""
    for view in closed.invoices:
        head = view.invoice
        table = Table(
            title=f"{head.number}  {head.tenant}  due {head.due_at:%Y-%m-%d}"
            + ("  paid" if head.state == "paid" else ""),
            title_justify="left",
            title_style="bold",
            show_footer=True,
        )
        table.add_column("Line", footer="Total")
        table.add_column("Quantity", justify="right")
        table.add_column("Exact", justify="right", footer="carried on:")
        table.add_column("Amount", justify="right", footer=_minor(head.total_minor))
        for line in view.lines:
            table.add_row(
                line.description,
                f"{line.quantity:,f}" if line.meter else "",
                plain(line.exact),
                _minor(line.amount_minor),
            )
        table.columns[2].footer = f"carried on {plain(head.residual_after)}"
        console.print(table)


def print_margin(console: Console, report: MarginReport) -> None:
    """The margin report of one grouping."""
    table = Table(
        title=f"Margin by {report.group_by.value}",
        title_justify="left",
        title_style="bold",
        show_footer=True,
    )
    table.add_column(report.group_by.value.title(), footer="all")
    table.add_column("Revenue", justify="right", footer=_money(report.posted))
    table.add_column("Direct", justify="right", footer=_money(report.direct_cost))
    table.add_column("Idle", justify="right", footer=_money(report.idle))
    table.add_column("Overhead", justify="right", footer=_money(report.overhead))
    table.add_column("Gross", justify="right", footer=_percent(report.gross_margin))
    table.add_column("Loaded", justify="right", footer=_percent(report.net_margin))
    table.add_column("Cost/M", justify="right")
    table.add_column("Revenue/M", justify="right")
    for row in report.rows:
        table.add_row(*_margin_cells(row))
    console.print(table)


def print_pools(console: Console, report: MarginReport) -> None:
    """How busy each pool was and what its hours earned."""
    for pool in report.pools:
        console.print(
            f"  pool {pool.allocation.pool}: utilisation "
            f"{_percent(pool.allocation.utilisation)}, "
            f"revenue per owned GPU-hour {_rate(pool.revenue_per_gpu_hour)}"
        )


def print_tie_outs(console: Console, ties: Sequence[TieOut]) -> None:
    """What was compared, and with which figures."""
    console.print("[bold]Tie-outs[/bold]")
    for tie in ties:
        console.print(f"  [green]✓[/green] {tie.name}")
        console.print(f"      {' = '.join(tie.figures)}", highlight=False)


def document(scene: Scene, closed: Closed, ties: Sequence[TieOut]) -> dict[str, Any]:
    """The demo's results for machines; amounts are text."""
    usd = currency(USD)
    by_tenant = closed.margins[GroupBy.TENANT]
    return {
        "simulated": {"engine": True, "stripe": True, "history": True},
        "period": {
            "start": scene.period.start.isoformat(),
            "end": scene.period.end.isoformat(),
        },
        "verdicts": {kind.value: count for kind, count in scene.verdicts.items()},
        "invoices": [
            {
                "number": view.invoice.number,
                "tenant": view.invoice.tenant,
                "state": view.invoice.state,
                "total": plain(from_minor(view.invoice.total_minor, usd)),
                "residual": plain(view.invoice.residual_after),
                "lines": len(view.lines),
            }
            for view in closed.invoices
        ],
        "margin": [
            {
                "tenant": row.label,
                "revenue": plain(row.revenue),
                "direct_cost": plain(row.direct_cost),
                "gross_margin_percent": _plain_percent(row),
            }
            for row in by_tenant.rows
        ],
        "tie_outs": [{"name": tie.name, "figures": list(tie.figures)} for tie in ties],
    }


def _margin_cells(row: MarginRow) -> tuple[str, ...]:
    return (
        row.label,
        _money(row.revenue),
        _money(row.direct_cost),
        _money(row.idle_share),
        _money(row.overhead_share),
        _percent(row.gross_margin),
        _percent(row.loaded_gross_margin),
        _rate(row.cost_per_million),
        _rate(row.revenue_per_million),
    )


def _plain_percent(row: MarginRow) -> str | None:
    percent = percent_for_display(row.gross_margin)
    return None if percent is None else plain(percent)


def _minor(minor: int) -> str:
    return _money(from_minor(minor, currency(USD)))


def _money(amount: Decimal) -> str:
    return format_currency(amount, USD, locale=LOCALE)


def _rate(amount: Decimal | None) -> str:
    return "-" if amount is None else f"{amount:.4f}"


def _percent(ratio: Any) -> str:
    percent = percent_for_display(ratio)
    return "-" if percent is None else f"{percent} %"
