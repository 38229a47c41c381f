"""Loading: what each delivered token would bear if tenants carried all of a pool's cost.

Decides: idle, scrap and overhead are shared in proportion to GPU time, which is the proportion of
direct cost, separately in every pool and without remainder. By default the operator keeps these
costs; the loaded view is for price floors. Where nothing was delivered there is nobody to carry
them: they stay unshared and visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.errors import TieOutFailed
from billing.margin.allocation import PoolAllocation, TokenUsage, exact_sum
from billing.money import EXACT, allocate_ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedShare:
    """A delivered use with its direct cost and its share of the rest; 12 decimals each."""

    usage: TokenUsage
    direct: Decimal
    idle: Decimal
    scrap: Decimal
    overhead: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPool:
    """A pool's whole cost on its delivered uses.

    Attributes:
        unshared: idle, scrap and overhead that no delivered use was there to carry.
        booked: the pool's cost, which the shares and `unshared` add up to.
    """

    shares: tuple[LoadedShare, ...]
    unshared: Decimal
    booked: Decimal

    def __post_init__(self) -> None:
        carried = exact_sum(
            amount
            for share in self.shares
            for amount in (share.direct, share.idle, share.scrap, share.overhead)
        )
        if EXACT.add(carried, self.unshared) != self.booked:
            raise TieOutFailed("M1: loaded and unshared cost is not the cost booked")


def load_pool(allocation: PoolAllocation) -> LoadedPool:
    """Share idle, scrap and overhead of one pool over its delivered uses."""
    delivered = [share for share in allocation.shares if not share.usage.scrap]
    weights = [share.gpu_seconds for share in delivered]
    rest = (allocation.idle, allocation.scrap, allocation.overhead)
    if any(weights):
        idle, scrap, overhead = (allocate_ledger(amount, weights) for amount in rest)
        unshared = Decimal(0)
    else:
        idle = scrap = overhead = [Decimal(0)] * len(delivered)
        unshared = exact_sum(rest)
    return LoadedPool(
        shares=tuple(
            LoadedShare(
                usage=share.usage,
                direct=share.cost,
                idle=idle[position],
                scrap=scrap[position],
                overhead=overhead[position],
            )
            for position, share in enumerate(delivered)
        ),
        unshared=unshared,
        booked=allocation.booked,
    )
