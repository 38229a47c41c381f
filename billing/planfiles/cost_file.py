"""Costs as YAML files: the pools of a fleet and what one period of them cost.

Decides: how costs are written down and which line of the file an error names. What the numbers
must satisfy and how amounts follow from them is decided by `billing.margin.cost_pool`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from billing.errors import InvalidInput
from billing.margin.allocation import exact_sum
from billing.margin.cost_pool import (
    CostEntry,
    CostPool,
    energy_cost,
    gpu_cost,
    overhead_cost,
    pool_by_model,
)
from billing.margin.throughput import Throughput, measured_throughput
from billing.money import currency
from billing.period import Period, parse_instant, parse_month, zone
from billing.planfiles.decimal_text import DecimalText
from billing.planfiles.validation import Document, read_document
from billing.planfiles.yaml_source import YamlPath, YamlSource, field_path, read_yaml
from billing.tenancy.tenant import require_slug


class SpanDocument(Document):
    """A period by its instants, for books that do not close by calendar months."""

    from_: Annotated[str, Field(alias="from")]
    to: str


class GpuDocument(Document):
    """GPU-hours that the pool owned or rented, idle ones included, and the price of one."""

    hours: DecimalText
    rate: DecimalText


class EnergyDocument(Document):
    """kWh at the IT equipment, power usage effectiveness, price of one kWh."""

    kwh: DecimalText
    pue: DecimalText
    tariff: DecimalText


class OverheadDocument(Document):
    """A fixed cost of the pool in the period."""

    name: str
    amount: DecimalText


class ModelDocument(Document):
    """Measured tokens per second and GPU at saturation. Only `input` has no default."""

    input: DecimalText
    cached_input: DecimalText | None = None
    cache_write: DecimalText | None = None
    output: DecimalText | None = None


class PoolDocument(Document):
    """GPUs that serve the same models, and what they cost."""

    slug: str
    gpu: GpuDocument
    energy: EnergyDocument | None = None
    overhead: list[OverheadDocument] = Field(default_factory=list[OverheadDocument])
    models: dict[str, ModelDocument]


class CostDocument(Document):
    """The costs of one period."""

    currency: str
    period: str | SpanDocument
    zone: str = "UTC"
    pools: list[PoolDocument]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSheet:
    """What a cost file says.

    Attributes:
        currency: ISO 4217 code of every amount.
        entries: booked costs, all of `period`.
    """

    period: Period
    currency: str
    pools: tuple[CostPool, ...]
    entries: tuple[CostEntry, ...]

    @property
    def booked(self) -> Decimal:
        """Sum of all entries, at 12 decimals."""
        return exact_sum(entry.amount for entry in self.entries)


def read_costs(text: str | bytes) -> CostSheet:
    """Read a cost file.

    Raises:
        InvalidPlan: names the line and field of what is wrong, and what to do about it.
    """
    source = read_yaml(text)
    document = read_document(CostDocument, source)
    with _located(source, ("currency",)):
        currency(document.currency, field="")
    period = _period(document, source)
    if not document.pools:
        raise source.refuse("no pools", path=("pools",), remedy="add a pool and its models")
    pools = tuple(_pool(pool, source, n) for n, pool in enumerate(document.pools))
    _require_distinct(pools, source)
    entries = tuple(
        entry
        for n, pool in enumerate(document.pools)
        for entry in _entries(pool, source, n, period, document.currency)
    )
    return CostSheet(period=period, currency=document.currency, pools=pools, entries=entries)


def _period(document: CostDocument, source: YamlSource) -> Period:
    if isinstance(document.period, str):
        with _located(source, ("zone",)):
            books_zone = zone(document.zone, field="")
        with _located(source, ("period",)):
            return parse_month(document.period, books_zone, field="")
    with _located(source, ("period", "from")):
        start = parse_instant(document.period.from_, field="")
    with _located(source, ("period", "to")):
        end = parse_instant(document.period.to, field="")
    with _located(source, ()):
        return Period(start=start, end=end)


def _pool(document: PoolDocument, source: YamlSource, position: int) -> CostPool:
    path: YamlPath = ("pools", position)
    with _located(source, (*path, "slug")):
        require_slug(document.slug, field="")
    if not document.models:
        raise source.refuse(
            "a pool that serves no model",
            path=(*path, "models"),
            remedy="list its models with their tokens per second",
        )
    throughputs: list[Throughput] = []
    for model, rates in document.models.items():
        # The core names a rate as models.<model>.<class>; a model's name may contain points.
        try:
            throughputs.append(_throughput(model, rates))
        except InvalidInput as refused:
            token_class = (refused.field or "").rpartition(".")[2]
            raise source.refuse(
                refused.message,
                path=(*path, "models", model, token_class),
                remedy=refused.remedy,
            ) from None
    return CostPool(slug=document.slug, throughputs=tuple(throughputs))


def _throughput(model: str, rates: ModelDocument) -> Throughput:
    return measured_throughput(
        model=model,
        input_rate=rates.input,
        output_rate=rates.output,
        cached_input_rate=rates.cached_input,
        cache_write_rate=rates.cache_write,
    )


def _entries(
    document: PoolDocument, source: YamlSource, position: int, period: Period, code: str
) -> Iterator[CostEntry]:
    path: YamlPath = ("pools", position)
    pool = document.slug
    with _located(source, (*path, "gpu")):
        hours, rate = document.gpu.hours, document.gpu.rate
        yield gpu_cost(pool=pool, period=period, hours=hours, rate=rate, currency=code)
    if (energy := document.energy) is not None:
        with _located(source, (*path, "energy")):
            yield energy_cost(
                pool=pool,
                period=period,
                kwh=energy.kwh,
                pue=energy.pue,
                tariff=energy.tariff,
                currency=code,
            )
    for n, fixed in enumerate(document.overhead):
        with _located(source, (*path, "overhead", n)):
            yield overhead_cost(
                pool=pool, period=period, name=fixed.name, amount=fixed.amount, currency=code
            )


def _require_distinct(pools: tuple[CostPool, ...], source: YamlSource) -> None:
    """Add pools one by one, so that the error names the line of the one that is too many."""
    for count in range(1, len(pools) + 1):
        try:
            pool_by_model(pools[:count])
        except InvalidInput as refused:
            member = "models" if (refused.field or "").endswith("models") else "slug"
            raise source.refuse(
                refused.message, path=("pools", count - 1, member), remedy=refused.remedy
            ) from None


@contextmanager
def _located(source: YamlSource, path: YamlPath) -> Generator[None]:
    """Give errors of the core the line and the full path of the value they are about."""
    try:
        yield
    except InvalidInput as refused:
        full = (*path, *field_path(refused.field or ""))
        raise source.refuse(refused.message, path=full, remedy=refused.remedy) from None
