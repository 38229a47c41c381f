"""Allocation: who caused a pool's cost. Exact to the last unit of 10^-12 (M1).

Decides: GPU and energy cost follow GPU time. Every use gets the GPU-seconds that its tokens take
at saturation; GPU time that was owned and not used is idle, and idle cost is a line of its own.
Tokens that nobody is billed for are scrap. Overhead is not caused by tokens and stays apart.
So allocated + scrap + idle + overhead = booked, always. Whether tenants are shown a share of idle
and overhead is decided by `loading`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.errors import InvalidInput, TieOutFailed
from billing.margin.cost_pool import (
    CostCategory,
    CostEntry,
    CostPool,
    owned_gpu_hours,
    pool_by_model,
)
from billing.margin.throughput import SECONDS_PER_HOUR
from billing.metering.token_class import TokenClass
from billing.money import EXACT, allocate_ledger
from billing.period import Period


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """Tokens of one class that one tenant caused on one model in the period.

    Attributes:
        tenant: slug of the tenant.
        tokens: not negative.
        scrap: True if compute was spent and nobody is billed: voided and failed requests.
    """

    tenant: str
    model: str
    token_class: TokenClass
    tokens: int
    scrap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CostShare:
    """The part of a pool's GPU and energy cost that one use caused.

    Attributes:
        gpu_seconds: at saturation, before any scaling to what the pool owned.
        cost: major units at 12 decimals.
    """

    usage: TokenUsage
    gpu_seconds: Fraction
    cost: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAllocation:
    """One pool's cost of one period, split without remainder.

    Attributes:
        shares: one per (tenant, model, token class, scrap or not), sorted by these.
        idle: cost of GPU time that was owned and not used.
        overhead: fixed cost of the pool.
        booked: what was split: the sum of the entries.
    """

    pool: str
    models: frozenset[str]
    period: Period
    currency: str
    shares: tuple[CostShare, ...]
    idle: Decimal
    overhead: Decimal
    booked: Decimal
    owned_gpu_hours: Fraction

    def __post_init__(self) -> None:
        parts = (self.allocated, self.scrap, self.idle, self.overhead)
        if exact_sum(parts) != self.booked:
            raise TieOutFailed(
                "M1: allocated + scrap + idle + overhead is not the cost booked",
                field=f"pools.{self.pool}",
            )

    @property
    def allocated(self) -> Decimal:
        """Cost of the tokens that were delivered."""
        return exact_sum(share.cost for share in self.shares if not share.usage.scrap)

    @property
    def scrap(self) -> Decimal:
        """Cost of the tokens that nobody is billed for."""
        return exact_sum(share.cost for share in self.shares if share.usage.scrap)

    @property
    def busy_gpu_hours(self) -> Fraction:
        """GPU-hours that all tokens take at saturation."""
        seconds = sum((share.gpu_seconds for share in self.shares), Fraction(0))
        return Fraction(seconds, SECONDS_PER_HOUR)

    @property
    def utilisation(self) -> Fraction | None:
        """Busy over owned GPU-hours; None if none are owned.

        Above 1 the pool delivered more than its throughput figures allow: they are too low.
        """
        if self.owned_gpu_hours == 0:
            return None
        return Fraction(self.busy_gpu_hours, self.owned_gpu_hours)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAllocation:
    """All pools of a period.

    Attributes:
        uncosted: usage of models that no pool serves: counted, and shown as without cost.
    """

    pools: tuple[PoolAllocation, ...]
    uncosted: tuple[TokenUsage, ...]


def allocate_fleet(
    *,
    pools: Sequence[CostPool],
    period: Period,
    currency: str,
    entries: Sequence[CostEntry],
    usages: Iterable[TokenUsage],
) -> FleetAllocation:
    """Split the cost of every pool over the usage of its models in one period.

    Args:
        entries: booked costs, all of this period and currency.
        usages: in any order; rows of the same kind are added up first, so neither order nor
            splitting changes a result.

    Raises:
        InvalidInput: an entry of another period, currency or pool; a model in two pools.
    """
    serving = pool_by_model(pools)
    by_pool: defaultdict[str, list[CostEntry]] = defaultdict(list)
    known = {pool.slug for pool in pools}
    for entry in entries:
        _require_belongs(entry, known, period, currency)
        by_pool[entry.pool].append(entry)
    merged = _merged(usages)
    allocations = tuple(
        _allocate_pool(
            pool=pool,
            period=period,
            currency=currency,
            entries=by_pool[pool.slug],
            usages=[usage for usage in merged if usage.model in pool.models],
        )
        for pool in sorted(pools, key=lambda pool: pool.slug)
    )
    uncosted = tuple(usage for usage in merged if usage.model not in serving)
    return FleetAllocation(pools=allocations, uncosted=uncosted)


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """Sum without loss of a digit."""
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total


def _allocate_pool(
    *,
    pool: CostPool,
    period: Period,
    currency: str,
    entries: Sequence[CostEntry],
    usages: Sequence[TokenUsage],
) -> PoolAllocation:
    overhead = exact_sum(e.amount for e in entries if e.category is CostCategory.OVERHEAD)
    by_time = exact_sum(e.amount for e in entries if e.category is not CostCategory.OVERHEAD)
    throughputs = {throughput.model: throughput for throughput in pool.throughputs}
    seconds = [
        throughputs[usage.model].gpu_seconds(usage.token_class, usage.tokens) for usage in usages
    ]
    owned_hours = owned_gpu_hours(entries)
    unused = owned_hours * SECONDS_PER_HOUR - sum(seconds, Fraction(0))
    *costs, idle = allocate_ledger(by_time, _weights(seconds, unused))
    return PoolAllocation(
        pool=pool.slug,
        models=pool.models,
        period=period,
        currency=currency,
        shares=tuple(
            CostShare(usage=usage, gpu_seconds=taken, cost=cost)
            for usage, taken, cost in zip(usages, seconds, costs, strict=True)
        ),
        idle=idle,
        overhead=overhead,
        booked=EXACT.add(by_time, overhead),
        owned_gpu_hours=owned_hours,
    )


def _weights(seconds: Sequence[Fraction], unused: Fraction) -> list[Fraction]:
    """Weights of the uses and, last, of idle.

    More use than was owned leaves nothing idle and scales the uses to what was owned. No use and
    nothing owned leaves all cost idle: a cost without a cause must not vanish.
    """
    idle = max(unused, Fraction(0))
    if not any(seconds) and idle == 0:
        idle = Fraction(1)
    return [*seconds, idle]


def _merged(usages: Iterable[TokenUsage]) -> list[TokenUsage]:
    """Usage added up by (tenant, model, token class, scrap), sorted by these."""
    totals: defaultdict[tuple[str, str, TokenClass, bool], int] = defaultdict(int)
    for usage in usages:
        if usage.tokens < 0:
            raise InvalidInput(
                "tokens are negative", field="tokens", remedy="correct the usage first"
            )
        totals[usage.tenant, usage.model, usage.token_class, usage.scrap] += usage.tokens
    return [
        TokenUsage(tenant=tenant, model=model, token_class=token_class, tokens=tokens, scrap=scrap)
        for (tenant, model, token_class, scrap), tokens in sorted(totals.items())
    ]


def _require_belongs(entry: CostEntry, known: set[str], period: Period, currency: str) -> None:
    if entry.pool not in known:
        raise InvalidInput(
            "a cost names an unknown pool", field="pool", remedy="name one of the pools"
        )
    if entry.period != period:
        raise InvalidInput(
            "a cost belongs to another period",
            field=f"pools.{entry.pool}.period",
            remedy="record what the reported period cost",
        )
    if entry.currency != currency:
        raise InvalidInput(
            "a cost is in another currency",
            field=f"pools.{entry.pool}.currency",
            remedy="report one currency at a time",
        )
