"""Throughput: how many GPU-seconds a token takes when the GPU is saturated.

Decides the weight of a token in the split of a pool's cost. A token that takes longer carries
more: prefill and decode of one model differ by a factor of five and more. The figures are the
operator's measurements; how a cost is split by them is decided in `allocation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.errors import InvalidInput
from billing.metering.token_class import TokenClass
from billing.money import EXACT

CACHED_INPUT_SPEED = 10
"""Until measured, a cached prompt token is read this many times faster than one is computed."""

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What one GPU delivers of one model at saturation.

    Attributes:
        model: name of the model.
        tokens_per_second: tokens per second and GPU, by class, each positive. A class that is
            missing weighs nothing: its tokens are counted, and their cost stays idle.
    """

    model: str
    tokens_per_second: Mapping[TokenClass, Decimal]

    def __post_init__(self) -> None:
        for token_class, rate in self.tokens_per_second.items():
            if rate <= 0:
                raise InvalidInput(
                    "throughput must be positive",
                    field=f"models.{self.model}.{token_class}",
                    remedy="leave the class out if the model never yields it",
                )

    def gpu_seconds(self, token_class: TokenClass, tokens: int) -> Fraction:
        """GPU-seconds that so many tokens of a class take at saturation."""
        rate = self.tokens_per_second.get(token_class)
        return Fraction(0) if rate is None else Fraction(tokens, 1) * Fraction(1, Fraction(rate))


def measured_throughput(
    *,
    model: str,
    input_rate: Decimal,
    output_rate: Decimal | None = None,
    cached_input_rate: Decimal | None = None,
    cache_write_rate: Decimal | None = None,
) -> Throughput:
    """A throughput with the defaults for what was not measured.

    A prompt token that is written to a cache is computed like any other; one that is read from it
    is `CACHED_INPUT_SPEED` times as fast. Output has no default: embedding models yield none.

    Args:
        input_rate: tokens per second and GPU; so are the other rates.
    """
    if cached_input_rate is None:
        cached_input_rate = EXACT.multiply(input_rate, Decimal(CACHED_INPUT_SPEED))
    if cache_write_rate is None:
        cache_write_rate = input_rate
    rates = {
        TokenClass.INPUT: input_rate,
        TokenClass.CACHED_INPUT: cached_input_rate,
        TokenClass.CACHE_WRITE: cache_write_rate,
        TokenClass.OUTPUT: output_rate,
    }
    return Throughput(
        model=model,
        tokens_per_second={name: rate for name, rate in rates.items() if rate is not None},
    )
