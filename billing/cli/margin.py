"""`steelyard margin`: record costs, and put revenue beside them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Annotated

import typer

from billing.cli.connect import as_operator
from billing.cli.documents import period_document
from billing.cli.failure import refused_in
from billing.cli.output import (
    JsonFlag,
    amount,
    show_json,
    show_members,
    show_nothing,
    show_table,
    show_text,
    span,
)
from billing.cli.sources import read_bytes, text_of
from billing.cli.when import (
    FromOption,
    PeriodOption,
    ToOption,
    ZoneOption,
    chosen_period,
    clock,
)
from billing.margin.figures import percent_for_display
from billing.margin.report import GroupBy, MarginReport, MarginRow, PoolRow
from billing.money import plain, round_half_up
from billing.operations.margin.costs import record_costs
from billing.operations.margin.report_margin import report_margin

app = typer.Typer()

SHOWN_DECIMALS = 4
"""Of amounts in the table; `--json` carries all twelve."""


@app.command(
    epilog="Example: steelyard plan example costs > costs.yaml\n\n"
    "Example: steelyard margin record costs.yaml"
)
def record(
    path: Annotated[str, typer.Argument(metavar="FILE", help="Costs as YAML.")],
    as_json: JsonFlag = False,
) -> None:
    """Record what a period cost; the newest record of a period is what reports use."""
    with refused_in(path):
        text = text_of(read_bytes(path))
        with as_operator() as connection:
            sheet = record_costs(connection, text, now=clock())
    if as_json:
        show_json(
            {
                "period": period_document(sheet.period),
                "currency": sheet.currency,
                "booked": plain(sheet.booked),
                "pools": [pool.slug for pool in sheet.pools],
                "entries": len(sheet.entries),
            }
        )
    else:
        show_members(
            "Costs recorded",
            [
                ("period", span(sheet.period)),
                ("booked", amount(Decimal(plain(sheet.booked)), sheet.currency)),
                ("pools", ", ".join(pool.slug for pool in sheet.pools)),
            ],
        )


@app.command(epilog="Example: steelyard margin report --by tenant --period 2026-11")
def report(
    *,
    by: Annotated[GroupBy, typer.Option(help="What a row is.")] = GroupBy.TENANT,
    period: PeriodOption = None,
    since: FromOption = None,
    until: ToOption = None,
    in_zone: ZoneOption = "UTC",
    as_json: JsonFlag = False,
) -> None:
    """Report margin for exactly a period whose costs are recorded.

    Revenue is what the ledger posted: run it after invoices were issued or usage was accrued.
    """
    chosen = chosen_period(period=period, since=since, until=until, in_zone=in_zone)
    with as_operator(snapshot=True) as connection:
        made = report_margin(connection, period=chosen, group_by=by)
    if as_json:
        show_json(_document(made))
    elif not made.rows:
        show_nothing(
            f"Costs of {span(chosen, in_zone)} are recorded, revenue and usage are not.",
            then="steelyard invoice issue --all --period YYYY-MM",
        )
    else:
        _show(made, in_zone)


def _show(made: MarginReport, in_zone: str) -> None:
    show_table(
        f"Margin by {made.group_by}, {span(made.period, in_zone)}, {made.currency}",
        (
            made.group_by.value,
            "#revenue",
            "#direct cost",
            "#idle share",
            "#gross margin",
            "#tokens",
            "#cost/M tokens",
            "#revenue/M tokens",
        ),
        [_cells(row) for row in made.rows],
        footer=(
            "all",
            _rounded(made.posted),
            _rounded(made.direct_cost),
            _rounded(made.idle),
            _percent(made.gross_margin),
            sum(row.tokens for row in made.rows),
            "",
            "",
        ),
    )
    if made.pools:
        show_table(
            "Pools",
            ("pool", "#booked", "#idle", "#overhead", "#GPU-hours", "#busy", "#revenue/GPU-hour"),
            [_pool_cells(pool) for pool in made.pools],
        )
    uncosted = sum(row.uncosted_tokens for row in made.rows)
    if uncosted:
        show_text(f"{uncosted:,} tokens are of models that no pool serves: they carry no cost.")
    show_text(
        f"M1 holds: direct {plain(made.direct_cost)} + idle {plain(made.idle)} + scrap "
        f"{plain(made.scrap)} + overhead {plain(made.overhead)} = booked {plain(made.booked)}"
    )
    show_text(f"M2 holds: revenue of all rows = posted in the ledger = {plain(made.posted)}")
    if made.net_margin is not None:
        show_text(f"Margin on all booked cost: {_percent(made.net_margin)}")


def _cells(row: MarginRow) -> tuple[object, ...]:
    return (
        row.label,
        _rounded(row.revenue),
        _rounded(row.direct_cost),
        _rounded(row.idle_share),
        _percent(row.gross_margin),
        row.tokens,
        row.cost_per_million,
        row.revenue_per_million,
    )


def _pool_cells(pool: PoolRow) -> tuple[object, ...]:
    allocation = pool.allocation
    return (
        allocation.pool,
        _rounded(allocation.booked),
        _rounded(allocation.idle),
        _rounded(allocation.overhead),
        _rounded(allocation.owned_gpu_hours),
        _percent(allocation.utilisation),
        pool.revenue_per_gpu_hour,
    )


def _document(made: MarginReport) -> dict[str, object]:
    return {
        "by": made.group_by.value,
        "period": period_document(made.period),
        "currency": made.currency,
        "rows": [_row_document(row) for row in made.rows],
        "pools": [_pool_document(pool) for pool in made.pools],
        "revenue": plain(made.posted),
        "direct_cost": plain(made.direct_cost),
        "idle": plain(made.idle),
        "scrap": plain(made.scrap),
        "overhead": plain(made.overhead),
        "booked": plain(made.booked),
        "gross_margin_percent": _percent_text(made.gross_margin),
        "net_margin_percent": _percent_text(made.net_margin),
        # A report that does not tie out raises instead of being made.
        "tie_outs": {"M1": True, "M2": True},
    }


def _row_document(row: MarginRow) -> dict[str, object]:
    return {
        "key": row.key,
        "revenue": plain(row.revenue),
        "direct_cost": plain(row.direct_cost),
        "idle_share": plain(row.idle_share),
        "scrap_share": plain(row.scrap_share),
        "overhead_share": plain(row.overhead_share),
        "loaded_cost": plain(row.loaded_cost),
        "gross_margin_percent": _percent_text(row.gross_margin),
        "loaded_gross_margin_percent": _percent_text(row.loaded_gross_margin),
        "cost_profit_margin_percent": _percent_text(row.cost_profit_margin),
        "tokens": row.tokens,
        "uncosted_tokens": row.uncosted_tokens,
        "cost_per_million": row.cost_per_million,
        "revenue_per_million": row.revenue_per_million,
    }


def _pool_document(pool: PoolRow) -> dict[str, object]:
    allocation = pool.allocation
    return {
        "pool": allocation.pool,
        "models": sorted(allocation.models),
        "booked": plain(allocation.booked),
        "allocated": plain(allocation.allocated),
        "scrap": plain(allocation.scrap),
        "idle": plain(allocation.idle),
        "overhead": plain(allocation.overhead),
        "utilisation_percent": _percent_text(allocation.utilisation),
        "revenue_per_gpu_hour": pool.revenue_per_gpu_hour,
    }


def _rounded(number: Decimal | Fraction) -> str:
    return f"{round_half_up(number, SHOWN_DECIMALS):,f}"


def _percent(ratio: Fraction | None) -> str | None:
    shown = percent_for_display(ratio)
    return None if shown is None else f"{shown:,f} %"


def _percent_text(ratio: Fraction | None) -> str | None:
    shown = percent_for_display(ratio)
    return None if shown is None else f"{shown:f}"
