"""Money and prices as the request path counts them: whole numbers, no decimals.

Decides: in which units, and what counts cost at given prices. Does not decide which price applies:
the control side of the proxy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

PICO: Final = 10**12
"""Money in the proxy is a whole number of 10⁻¹² of the major unit."""

ATTO: Final = 10**18
"""Prices in the proxy are whole numbers of 10⁻¹⁸ of the major unit."""


def _no_units() -> Mapping[UnitMeter, int]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The highest prices that can apply to a model, in 10⁻¹⁸ of the major unit.

    Attributes:
        request: per operation.
        input, cached_input, cache_write, output: per token; 0 where the class costs nothing.
        units: per whole number that is counted (audio: per millisecond).
    """

    request: int = 0
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    units: Mapping[UnitMeter, int] = field(default_factory=_no_units)


def pico(atto: int) -> int:
    """10⁻¹⁸ of the major unit as 10⁻¹², rounded up: a live balance is never too high."""
    return -(-atto // (ATTO // PICO))


def charge(rates: Rates, counts: TokenCounts, units: Mapping[UnitMeter, int]) -> int:
    """What an operation costs at the highest prices that can apply, in 10⁻¹²; rounded up."""
    beside = sum(rates.units.get(unit, 0) * count for unit, count in units.items())
    return pico(
        rates.request
        + rates.input * counts.input
        + rates.cached_input * counts.cached_input
        + rates.cache_write * counts.cache_write
        + rates.output * counts.output
        + beside
    )
