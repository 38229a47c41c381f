"""Money and prices as the request path counts them: whole numbers, no decimals.

Decides: in which units. Does not decide which price applies: the control side of the proxy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

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
