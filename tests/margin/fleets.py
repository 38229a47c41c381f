"""Hypothesis strategies for fleets of pools, their costs and their usage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import strategies as st

from billing.margin.allocation import FleetAllocation, TokenUsage, allocate_fleet
from billing.margin.cost_pool import (
    CostEntry,
    CostPool,
    energy_cost,
    gpu_cost,
    overhead_cost,
)
from billing.margin.throughput import Throughput
from billing.metering.token_class import TokenClass
from billing.period import Period

NOVEMBER = Period(start=datetime(2026, 11, 1, tzinfo=UTC), end=datetime(2026, 12, 1, tzinfo=UTC))
TENANTS = ("acme", "globex", "initech")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    pools: tuple[CostPool, ...]
    entries: tuple[CostEntry, ...]
    usages: tuple[TokenUsage, ...]

    def allocate(self) -> FleetAllocation:
        return allocate_fleet(
            pools=self.pools,
            period=NOVEMBER,
            currency="USD",
            entries=self.entries,
            usages=self.usages,
        )


def decimals(low: str, high: str, places: int = 6) -> st.SearchStrategy[Decimal]:
    return st.decimals(Decimal(low), Decimal(high), places=places, allow_nan=False)


def throughputs(model: str) -> st.SearchStrategy[Throughput]:
    """Some classes are missing: they weigh nothing."""
    rates = st.dictionaries(st.sampled_from(TokenClass), decimals("0.001", "1000000", 3))
    return rates.map(lambda rate: Throughput(model=model, tokens_per_second=rate))


@st.composite
def pools(draw: st.DrawFn) -> tuple[CostPool, ...]:
    models = [f"model-{n}" for n in range(draw(st.integers(0, 5)))]
    count = draw(st.integers(0, 3))
    homes = draw(st.lists(st.integers(0, 2), min_size=len(models), max_size=len(models)))
    return tuple(
        CostPool(
            slug=f"pool-{n}",
            throughputs=tuple(
                draw(throughputs(model))
                for model, home in zip(models, homes, strict=True)
                if home == n
            ),
        )
        for n in range(count)
    )


@st.composite
def costs(draw: st.DrawFn, slug: str) -> list[CostEntry]:
    books = {"pool": slug, "period": NOVEMBER, "currency": "USD"}
    entries: list[CostEntry] = []
    if draw(st.booleans()):
        hours = draw(st.sampled_from([Decimal(0), Decimal("0.000001"), Decimal(720)]))
        entries.append(gpu_cost(hours=hours, rate=draw(decimals("0", "20", 7)), **books))
    if draw(st.booleans()):
        energy = {
            "kwh": decimals("0", "9999"),
            "pue": decimals("1", "2"),
            "tariff": decimals("0", "1"),
        }
        drawn = {name: draw(amounts) for name, amounts in energy.items()}
        entries.append(energy_cost(**drawn, **books))
    for n in range(draw(st.integers(0, 2))):
        amount = draw(decimals("0", "100000", 12))
        entries.append(overhead_cost(name=f"overhead {n}", amount=amount, **books))
    return entries


USAGES = st.lists(
    st.builds(
        TokenUsage,
        tenant=st.sampled_from(TENANTS),
        model=st.sampled_from([f"model-{n}" for n in range(7)]),
        token_class=st.sampled_from(TokenClass),
        tokens=st.one_of(st.integers(0, 1000), st.integers(0, 10**18)),
        scrap=st.booleans(),
    ),
    max_size=20,
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    fleet = draw(pools())
    entries = [entry for pool in fleet for entry in draw(costs(pool.slug))]
    return Fleet(pools=fleet, entries=tuple(entries), usages=tuple(draw(USAGES)))
