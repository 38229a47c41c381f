"""The margin report: posted revenue beside allocated cost, by tenant or by model.

Decides: what a row contains, and that a report which does not tie out is not made. Revenue is what
the ledger posted (M2), cost is what was booked (M1). Idle, scrap and overhead have lines of their
own; each row also shows its share of them, so gross margin (on direct cost) and loaded gross
margin stand side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import assert_never

from billing.errors import InvalidInput, TieOutFailed
from billing.margin.allocation import FleetAllocation, PoolAllocation, TokenUsage, exact_sum
from billing.margin.figures import (
    cost_profit_margin,
    gross_margin,
    per_gpu_hour_for_display,
    per_million_for_display,
)
from billing.margin.loading import LoadedShare, load_pool
from billing.margin.revenue import PostedRevenue
from billing.money import EXACT
from billing.period import Period

UNATTRIBUTED = "unattributed"
"""Label of the row for revenue that belongs to no model."""


class GroupBy(StrEnum):
    """What one row of the report is."""

    TENANT = "tenant"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginRow:
    """One tenant or one model in one period. Amounts are major units at 12 decimals.

    Attributes:
        key: slug of the tenant or name of the model; None for revenue of no model.
        direct_cost: GPU and energy cost of the delivered tokens.
        idle_share: share of idle cost, in proportion to direct cost; so are the other shares.
        tokens: delivered tokens of all classes.
        uncosted_tokens: the part of `tokens` on models that no pool serves.
    """

    key: str | None
    revenue: Decimal
    direct_cost: Decimal
    idle_share: Decimal
    scrap_share: Decimal
    overhead_share: Decimal
    tokens: int
    uncosted_tokens: int

    @property
    def label(self) -> str:
        """The key as it is shown."""
        return UNATTRIBUTED if self.key is None else self.key

    @property
    def loaded_cost(self) -> Decimal:
        """Direct cost with all shares."""
        return exact_sum((self.direct_cost, self.idle_share, self.scrap_share, self.overhead_share))

    @property
    def gross_margin(self) -> Fraction | None:
        """(revenue - direct cost) / revenue."""
        return gross_margin(self.revenue, self.direct_cost)

    @property
    def loaded_gross_margin(self) -> Fraction | None:
        """(revenue - loaded cost) / revenue."""
        return gross_margin(self.revenue, self.loaded_cost)

    @property
    def cost_profit_margin(self) -> Fraction | None:
        """(revenue - direct cost) / direct cost."""
        return cost_profit_margin(self.revenue, self.direct_cost)

    @property
    def cost_per_million(self) -> Decimal | None:
        """Direct cost per million costed tokens, for display."""
        return per_million_for_display(self.direct_cost, self.tokens - self.uncosted_tokens)

    @property
    def revenue_per_million(self) -> Decimal | None:
        """Revenue per million delivered tokens, for display."""
        return per_million_for_display(self.revenue, self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One pool: how busy it was and what its hours earned.

    Attributes:
        revenue: posted revenue of the pool's models.
    """

    allocation: PoolAllocation
    revenue: Decimal

    @property
    def revenue_per_gpu_hour(self) -> Decimal | None:
        """Revenue per owned GPU-hour, idle hours included, for display."""
        return per_gpu_hour_for_display(self.revenue, self.allocation.owned_gpu_hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginReport:
    """Rows that add up to the ledger's revenue and to the booked cost.

    Attributes:
        rows: sorted by key, the row of no model last.
        idle: cost that the operator keeps by default; so are scrap and overhead.
        unshared: the part of idle, scrap and overhead that is in no row's share.
        booked: all cost of the period.
        posted: all revenue that the ledger posted in the period.

    Raises:
        TieOutFailed: M1 or M2 does not hold.
    """

    group_by: GroupBy
    period: Period
    currency: str
    rows: tuple[MarginRow, ...]
    pools: tuple[PoolRow, ...]
    idle: Decimal
    scrap: Decimal
    overhead: Decimal
    unshared: Decimal
    booked: Decimal
    posted: Decimal

    def __post_init__(self) -> None:
        if exact_sum(row.revenue for row in self.rows) != self.posted:
            raise TieOutFailed("M2: revenue of the rows is not the revenue posted", field="rows")
        kept = exact_sum((self.idle, self.scrap, self.overhead))
        if EXACT.add(self.direct_cost, kept) != self.booked:
            raise TieOutFailed("M1: direct cost and kept cost is not the cost booked", field="rows")
        loaded = exact_sum(row.loaded_cost for row in self.rows)
        if EXACT.add(loaded, self.unshared) != self.booked:
            raise TieOutFailed("M1: loaded cost of the rows is not the cost booked", field="rows")

    @property
    def direct_cost(self) -> Decimal:
        """Direct cost of all rows."""
        return exact_sum(row.direct_cost for row in self.rows)

    @property
    def gross_margin(self) -> Fraction | None:
        """Of all rows, on direct cost."""
        return gross_margin(self.posted, self.direct_cost)

    @property
    def net_margin(self) -> Fraction | None:
        """Of all rows, on all booked cost, whoever carries it."""
        return gross_margin(self.posted, self.booked)


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What a row adds up while the report is made."""

    revenue: Decimal = field(default=Decimal(0))
    direct: Decimal = field(default=Decimal(0))
    idle: Decimal = field(default=Decimal(0))
    scrap: Decimal = field(default=Decimal(0))
    overhead: Decimal = field(default=Decimal(0))
    tokens: int = 0
    uncosted: int = 0

    def add_share(self, share: LoadedShare) -> None:
        self.direct = EXACT.add(self.direct, share.direct)
        self.idle = EXACT.add(self.idle, share.idle)
        self.scrap = EXACT.add(self.scrap, share.scrap)
        self.overhead = EXACT.add(self.overhead, share.overhead)
        self.tokens += share.usage.tokens

    def row(self, key: str | None) -> MarginRow:
        return MarginRow(
            key=key,
            revenue=self.revenue,
            direct_cost=self.direct,
            idle_share=self.idle,
            scrap_share=self.scrap,
            overhead_share=self.overhead,
            tokens=self.tokens,
            uncosted_tokens=self.uncosted,
        )


def margin_report(
    *,
    group_by: GroupBy,
    period: Period,
    currency: str,
    revenue: Sequence[PostedRevenue],
    fleet: FleetAllocation,
) -> MarginReport:
    """Put posted revenue beside allocated cost.

    Args:
        revenue: everything that the ledger posted to revenue in the period and currency.
        fleet: the allocation of the same period and currency.

    Raises:
        InvalidInput: revenue or cost of another currency or period.
        TieOutFailed: M1 or M2 does not hold.
    """
    _require_same(period, currency, revenue, fleet)
    loaded = [load_pool(allocation) for allocation in fleet.pools]
    sums = _sums(group_by, revenue, [s for pool in loaded for s in pool.shares], fleet.uncosted)
    keys = sorted(sums, key=lambda key: (key is None, key or ""))
    return MarginReport(
        group_by=group_by,
        period=period,
        currency=currency,
        rows=tuple(sums[key].row(key) for key in keys),
        pools=tuple(
            PoolRow(
                allocation=allocation,
                revenue=exact_sum(r.amount for r in revenue if r.model in allocation.models),
            )
            for allocation in fleet.pools
        ),
        idle=exact_sum(allocation.idle for allocation in fleet.pools),
        scrap=exact_sum(allocation.scrap for allocation in fleet.pools),
        overhead=exact_sum(allocation.overhead for allocation in fleet.pools),
        unshared=exact_sum(pool.unshared for pool in loaded),
        booked=exact_sum(allocation.booked for allocation in fleet.pools),
        posted=exact_sum(part.amount for part in revenue),
    )


def _sums(
    group_by: GroupBy,
    revenue: Iterable[PostedRevenue],
    shares: Iterable[LoadedShare],
    uncosted: Iterable[TokenUsage],
) -> dict[str | None, _Sums]:
    sums: defaultdict[str | None, _Sums] = defaultdict(_Sums)
    for part in revenue:
        row = sums[_key(group_by, part)]
        row.revenue = EXACT.add(row.revenue, part.amount)
    for share in shares:
        sums[_key(group_by, share.usage)].add_share(share)
    for usage in uncosted:
        if not usage.scrap:
            row = sums[_key(group_by, usage)]
            row.tokens += usage.tokens
            row.uncosted += usage.tokens
    return sums


def _key(group_by: GroupBy, fact: PostedRevenue | TokenUsage) -> str | None:
    match group_by:
        case GroupBy.TENANT:
            return fact.tenant
        case GroupBy.MODEL:
            return fact.model
        case _:
            assert_never(group_by)


def _require_same(
    period: Period, currency: str, revenue: Iterable[PostedRevenue], fleet: FleetAllocation
) -> None:
    if any(part.currency != currency for part in revenue):
        raise InvalidInput(
            "revenue is in another currency",
            field="currency",
            remedy="report one currency at a time",
        )
    for allocation in fleet.pools:
        if allocation.currency != currency or allocation.period != period:
            raise InvalidInput(
                "cost is of another period or currency",
                field=f"pools.{allocation.pool}",
                remedy="report a period and a currency for which costs are recorded",
            )
