"""Margin reports: posted revenue beside allocated cost."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import QueryParameter

from api.auth import BOOK_READERS, SECURITY
from api.deployment import DeploymentInUse
from api.fields import FromQuery, MonthQuery, ToQuery, book_period, ledger_text
from billing.margin.figures import percent_for_display
from billing.margin.report import GroupBy, MarginReport, MarginRow, PoolRow
from billing.operations.margin.report_margin import report_margin

ByQuery = Annotated[GroupBy, QueryParameter(description="What a row is.")]


class MarginOfGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant or model. Amounts are major units at 12 decimals, margins percent.

    Gross margin is (revenue - direct cost) / revenue; loaded gross margin takes the shares of
    idle, scrap and overhead off as well; cost-profit margin is profit over direct cost.
    """

    key: str | None
    label: str
    revenue: str
    direct_cost: str
    idle_share: str
    scrap_share: str
    overhead_share: str
    loaded_cost: str
    gross_margin_percent: str | None
    loaded_gross_margin_percent: str | None
    cost_profit_margin_percent: str | None
    tokens: str
    uncosted_tokens: str
    cost_per_million_tokens: str | None
    revenue_per_million_tokens: str | None


class MarginOfPool(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of GPUs: what it cost, what stood idle, what its models earned."""

    pool: str
    models: list[str]
    booked: str
    idle: str
    revenue: str
    revenue_per_gpu_hour: str | None


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """A margin report whose rows add up to the ledger's revenue and to the booked cost."""

    by: GroupBy
    period_start: datetime
    period_end: datetime
    currency: str
    rows: list[MarginOfGroup]
    pools: list[MarginOfPool]
    revenue: str
    booked_cost: str
    direct_cost: str
    idle: str
    scrap: str
    overhead: str
    unshared: str
    gross_margin_percent: str | None
    net_margin_percent: str | None


class MarginController(Controller):
    """Margin of a period."""

    path = "/margin"
    tags = ("Finance",)
    guards = (BOOK_READERS,)
    security = SECURITY

    @get(
        operation_id="show_margin",
        summary="Report margin per tenant or model; costs of exactly this period must be recorded",
        sync_to_thread=True,
    )
    def margin(
        self,
        deployment: DeploymentInUse,
        by: ByQuery = GroupBy.TENANT,
        period: MonthQuery = None,
        from_: FromQuery = None,
        to_: ToQuery = None,
    ) -> Margin:
        asked = book_period(period, from_, to_, now=deployment.now())
        with deployment.as_operator(snapshot=True) as transaction:
            return _shown(report_margin(transaction, period=asked, group_by=by))


def _shown(report: MarginReport) -> Margin:
    return Margin(
        by=report.group_by,
        period_start=report.period.start,
        period_end=report.period.end,
        currency=report.currency,
        rows=[_row(row) for row in report.rows],
        pools=[_pool(pool) for pool in report.pools],
        revenue=ledger_text(report.posted),
        booked_cost=ledger_text(report.booked),
        direct_cost=ledger_text(report.direct_cost),
        idle=ledger_text(report.idle),
        scrap=ledger_text(report.scrap),
        overhead=ledger_text(report.overhead),
        unshared=ledger_text(report.unshared),
        gross_margin_percent=_percent(report.gross_margin),
        net_margin_percent=_percent(report.net_margin),
    )


def _row(row: MarginRow) -> MarginOfGroup:
    return MarginOfGroup(
        key=row.key,
        label=row.label,
        revenue=ledger_text(row.revenue),
        direct_cost=ledger_text(row.direct_cost),
        idle_share=ledger_text(row.idle_share),
        scrap_share=ledger_text(row.scrap_share),
        overhead_share=ledger_text(row.overhead_share),
        loaded_cost=ledger_text(row.loaded_cost),
        gross_margin_percent=_percent(row.gross_margin),
        loaded_gross_margin_percent=_percent(row.loaded_gross_margin),
        cost_profit_margin_percent=_percent(row.cost_profit_margin),
        tokens=str(row.tokens),
        uncosted_tokens=str(row.uncosted_tokens),
        cost_per_million_tokens=_optional(row.cost_per_million),
        revenue_per_million_tokens=_optional(row.revenue_per_million),
    )


def _pool(row: PoolRow) -> MarginOfPool:
    return MarginOfPool(
        pool=row.allocation.pool,
        models=sorted(row.allocation.models),
        booked=ledger_text(row.allocation.booked),
        idle=ledger_text(row.allocation.idle),
        revenue=ledger_text(row.revenue),
        revenue_per_gpu_hour=_optional(row.revenue_per_gpu_hour),
    )


def _percent(ratio: Fraction | None) -> str | None:
    return _optional(percent_for_display(ratio, decimals=2))


def _optional(figure: Decimal | None) -> str | None:
    return None if figure is None else f"{figure:f}"
