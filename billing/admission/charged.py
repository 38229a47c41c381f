"""What of an answer a model is charged for.

Decides: which of the engine's figures count, by what the model is registered with. Every model has
prices for just that, and engines say more: tokens beside the length of a sound, searches beside
tokens. What is left out here is still kept in the raw figures of the event.
"""

from __future__ import annotations

from collections.abc import Mapping

from billing.admission.backend import ServedModel
from billing.metering.token_class import TokenClass, TokenCounts
from billing.metering.unit_meter import UnitMeter

_COMMON = frozenset({TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT})


def charged_as_said(model: ServedModel) -> bool:
    """Whether `charged_tokens` changes no counts but those of tokens written to a cache."""
    return model.classes >= _COMMON


def charged_tokens(model: ServedModel, tokens: TokenCounts) -> TokenCounts:
    """The counts in the classes that the model is registered with.

    Cached and written tokens of a class that it is not registered with are plain input: such a
    model has no price for them, and they must not fall out of the bill.
    """
    classes = model.classes
    if charged_as_said(model) and not tokens.cache_write:
        return tokens  # the common case
    plain, cached, written = tokens.input, tokens.cached_input, tokens.cache_write
    if TokenClass.CACHED_INPUT not in classes:
        plain, cached = plain + cached, 0
    if TokenClass.CACHE_WRITE not in classes:
        plain, written = plain + written, 0
    generates = TokenClass.OUTPUT in classes
    return TokenCounts(
        input=plain if TokenClass.INPUT in classes else 0,
        cached_input=cached,
        cache_write=written,
        output=tokens.output if generates else 0,
        reasoning=tokens.reasoning if generates else 0,
    )


def charged_units(model: ServedModel, units: Mapping[UnitMeter, int]) -> dict[UnitMeter, int]:
    """The units that the model is registered with."""
    if not units:
        return {}
    return {unit: count for unit, count in units.items() if unit in model.units}
