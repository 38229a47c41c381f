"""Cost pools: GPUs that serve together, and what a period of them costs.

Decides: which categories of cost exist, how an operator's inputs (hours and a rate, energy and a
tariff) become booked amounts, which pool serves a model. Who pays for a pool's cost is decided by
`allocation`. Amounts are major units at the ledger's 12 decimals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction

from billing.errors import InvalidInput
from billing.margin.throughput import Throughput
from billing.money import EXACT, exact_decimal, plain, to_ledger
from billing.period import Period

GPU_HOURS = "gpu_hours"
"""Name of the input that says how many GPU-hours a pool owned in the period."""


class CostCategory(StrEnum):
    """What was paid for."""

    GPU = "gpu"
    """Depreciation or rent of the accelerators, by the owned GPU-hour, idle hours included."""
    ENERGY = "energy"
    """Electricity at the meter of the facility: IT energy x PUE x tariff."""
    OVERHEAD = "overhead"
    """Staff, network, licences: not caused by tokens, shown on a line of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPool:
    """GPUs that serve the same models and share one cost.

    Attributes:
        slug: stable name of the pool.
        throughputs: what one of its GPUs delivers, one value per model that it serves.
    """

    slug: str
    throughputs: tuple[Throughput, ...]

    def __post_init__(self) -> None:
        if len(self.models) != len(self.throughputs):
            raise InvalidInput(
                "a model is listed twice in one pool",
                field=f"pools.{self.slug}",
                remedy="list it once",
            )

    @property
    def models(self) -> frozenset[str]:
        """Names of the models that the pool serves."""
        return frozenset(throughput.model for throughput in self.throughputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """One booked cost of one pool and period.

    Attributes:
        pool: slug of the pool.
        amount: major units at 12 decimals; negative where a supplier's credit corrects a cost.
        inputs: what the amount was computed from, as text, so that it can be redone by hand.
    """

    pool: str
    period: Period
    category: CostCategory
    amount: Decimal
    currency: str
    inputs: Mapping[str, str]

    def __post_init__(self) -> None:
        if to_ledger(self.amount) != self.amount:
            raise InvalidInput(
                "a cost has at most 12 decimals", field="amount", remedy="round it to 12 decimals"
            )


def gpu_cost(
    *, pool: str, period: Period, hours: Decimal, rate: Decimal, currency: str
) -> CostEntry:
    """Owned GPU-hours x price of one GPU-hour, half up at 12 decimals.

    Raises:
        InvalidInput: a negative input.
    """
    _require_not_negative(hours=hours, rate=rate)
    return CostEntry(
        pool=pool,
        period=period,
        category=CostCategory.GPU,
        amount=to_ledger(EXACT.multiply(hours, rate)),
        currency=currency,
        inputs={GPU_HOURS: plain(hours), "rate_per_gpu_hour": plain(rate)},
    )


def energy_cost(
    *, pool: str, period: Period, kwh: Decimal, pue: Decimal, tariff: Decimal, currency: str
) -> CostEntry:
    """IT energy x PUE x tariff, half up at 12 decimals.

    Args:
        kwh: energy at the IT equipment. Energy of the facility's own meter has a PUE of 1.
        pue: power usage effectiveness, at least 1.
        tariff: price of one kWh at the facility's meter.

    Raises:
        InvalidInput: a negative input, or a PUE below 1.
    """
    _require_not_negative(kwh=kwh, tariff=tariff)
    if pue < 1:
        raise InvalidInput(
            "PUE is below 1", field="pue", remedy="facility energy divided by IT energy"
        )
    return CostEntry(
        pool=pool,
        period=period,
        category=CostCategory.ENERGY,
        amount=to_ledger(EXACT.multiply(EXACT.multiply(kwh, pue), tariff)),
        currency=currency,
        inputs={"kwh": plain(kwh), "pue": plain(pue), "tariff_per_kwh": plain(tariff)},
    )


def overhead_cost(
    *, pool: str, period: Period, name: str, amount: Decimal, currency: str
) -> CostEntry:
    """A fixed cost of the pool, half up at 12 decimals.

    Raises:
        InvalidInput: a negative amount.
    """
    _require_not_negative(amount=amount)
    return CostEntry(
        pool=pool,
        period=period,
        category=CostCategory.OVERHEAD,
        amount=to_ledger(amount),
        currency=currency,
        inputs={"name": name, "amount": plain(amount)},
    )


def owned_gpu_hours(entries: Iterable[CostEntry]) -> Fraction:
    """GPU-hours that the booked GPU costs paid for, whether they were used or not."""
    hours = (
        Fraction(exact_decimal(entry.inputs[GPU_HOURS], field=f"inputs.{GPU_HOURS}"))
        for entry in entries
        if entry.category is CostCategory.GPU and GPU_HOURS in entry.inputs
    )
    return sum(hours, Fraction(0))


def pool_by_model(pools: Iterable[CostPool]) -> dict[str, str]:
    """Slug of the pool that serves each model.

    Raises:
        InvalidInput: two pools have one slug or serve one model: a usage event does not say which
            of them did the work, so its cost would be a guess.
    """
    serving: dict[str, str] = {}
    slugs: set[str] = set()
    for pool in pools:
        if pool.slug in slugs:
            raise InvalidInput(
                "two pools have the same slug",
                field="pools",
                remedy="give each pool a slug of its own",
            )
        slugs.add(pool.slug)
        for model in sorted(pool.models):
            if model in serving:
                raise InvalidInput(
                    f"pools {serving[model]} and {pool.slug} serve the same model",
                    field=f"pools.{pool.slug}.models",
                    remedy="give the model to one pool, or merge the pools",
                )
            serving[model] = pool.slug
    return serving


def _require_not_negative(**amounts: Decimal) -> None:
    for name, amount in amounts.items():
        if amount < 0:
            raise InvalidInput("a cost input is negative", field=name, remedy="use 0 or more")
