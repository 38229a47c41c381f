"""Whether a meter can answer what a charge asks of it.

Decides: which charges cannot be rated from recorded usage of their meter, because it declares no
such dimension or band, or because it does not add up and so is known for the whole period alone.
Such a charge is refused when its plan is read and when a contract is bound; else it would block
the invoice of the period, when the usage has happened and nobody can count it otherwise any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from billing.catalog.charge import Charge
from billing.catalog.price import Percentage, Reserved, Span
from billing.catalog.selector import Selector, is_built_in
from billing.metering.dimension import ABSENT, Dimension
from billing.metering.meter import (
    Aggregation,
    Meter,
    MeterVersion,
    Reading,
    State,
    built_in_meter,
)
from billing.metering.request_event import SERVICE_TIER, ServiceTier, is_token_meter


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredMeter:
    """A meter as charges see it.

    Attributes:
        dimensions: names by which its usage can be split.
        values: (name, all of its values) of dimensions that can have no others, such as bands.
    """

    meter: Meter
    dimensions: frozenset[str] = frozenset()
    values: tuple[tuple[str, frozenset[str]], ...] = ()

    def values_of(self, dimension: str) -> frozenset[str]:
        """All values of a dimension; empty where it may have any."""
        return dict(self.values).get(dimension, frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """What a charge asks of its meter in vain.

    Attributes:
        member: of the charge, as a plan file calls it.
    """

    member: str
    message: str
    remedy: str


def declared_meter(defined: MeterVersion) -> DeclaredMeter:
    """A meter version as charges see it."""
    if defined.reading is None:
        return DeclaredMeter(meter=defined.meter)
    return declared_by(defined.meter, defined.reading)


def declared_by(meter: Meter, reading: Reading) -> DeclaredMeter:
    """A meter that reads events, as charges see it."""
    of_requests = is_token_meter(meter.code)
    return DeclaredMeter(
        meter=meter,
        dimensions=frozenset(each.name for each in reading.dimensions),
        values=tuple(
            (each.name, values)
            for each in reading.dimensions
            if (values := _values(each, of_requests=of_requests))
        ),
    )


def _values(dimension: Dimension, *, of_requests: bool) -> frozenset[str]:
    if of_requests and dimension.path == SERVICE_TIER:
        return frozenset(tier.value for tier in ServiceTier)
    return frozenset(dimension.bands)


def built_in(code: str) -> DeclaredMeter | None:
    """A meter that exists without being declared; None if there is none of this code."""
    return DeclaredMeter(meter=built_in_meter(code)) if is_built_in(code) else None


def misfit(charge: Charge, declared: DeclaredMeter) -> Misfit | None:
    """The first thing that a charge asks of its meter in vain; None if there is none."""
    if charge.selector is None:
        return None
    return next(_misfits(charge, charge.selector, declared), None)


def _misfits(charge: Charge, selector: Selector, declared: DeclaredMeter) -> Iterator[Misfit]:
    asked = {
        "where": [condition.dimension for condition in selector.where],
        "split_by": charge.split_by,
    }
    for member, names in asked.items():
        if unknown := sorted(set(names) - declared.dimensions):
            yield Misfit(
                member=member,
                message=f"the meter {selector.meter} has no dimension {unknown[0]}",
                remedy="declare it with the meter, or use another meter",
            )
    for condition in selector.where:
        values = declared.values_of(condition.dimension)
        if values and not condition.values <= {*values, ABSENT}:
            yield Misfit(
                member="where",
                message=f"{condition.dimension} of {selector.meter} has no such value",
                remedy=f"use {', '.join(sorted(values))}, or define the meter with other edges",
            )
    aggregation = declared.meter.aggregation
    if charge.prorated and aggregation is not Aggregation.TIME_WEIGHTED_SUM:
        yield Misfit(
            member="prorated",
            message=f"the meter {selector.meter} is no level that units join and leave",
            remedy="use a meter of time_weighted_sum, or leave out prorated",
        )
    if aggregation.state is State.ADDITIVE:
        return
    for member, names in asked.items():
        if names:
            yield Misfit(
                member=member,
                message=f"{aggregation} of {selector.meter} is known for a whole period only",
                remedy="declare a meter for each value with a condition, or one that adds up",
            )
    if isinstance(charge.price, Percentage) and not charge.price.is_plain:
        yield Misfit(
            member="meter",
            message=f"{aggregation} of {selector.meter} has no single transactions",
            remedy="use a meter of sum",
        )
    if aggregation is not Aggregation.TIME_WEIGHTED_SUM:
        yield from _by_time(charge, selector, aggregation)


def _by_time(charge: Charge, selector: Selector, aggregation: Aggregation) -> Iterator[Misfit]:
    """What asks for parts of a period."""
    promised = charge.adjustments.commitment
    asks = {
        "during": selector.window is not None,
        "restart": charge.restart is not Span.PERIOD,
        "window": isinstance(charge.price, Reserved) and charge.price.window is not Span.PERIOD,
        "commitment.window": promised is not None and promised.window is not Span.PERIOD,
    }
    for member, does in asks.items():
        if does:
            yield Misfit(
                member=member,
                message=f"{aggregation} of {selector.meter} is known for a whole period only",
                remedy="use a meter of sum, count or time_weighted_sum",
            )
