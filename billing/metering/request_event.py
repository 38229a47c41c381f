"""A request as an event that meters read: how built-in meters of tokens come to have dimensions.

Decides: which members such an event has, and what an operator may say of a built-in meter: by
which of them its usage is split, and where bands of context begin; what is counted, it may not.
The same event can be reported by a gateway that is not ours. Decides nothing about when an event
of the proxy carries these members (`operations/metering/token_meters.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from billing.errors import InvalidInput
from billing.metering.dimension import Dimension
from billing.metering.meter import Aggregation, Meter, Reading
from billing.metering.token_class import TokenClass, TokenCounts

REQUEST_EVENT = "steelyard.request"
"""Type of the event."""

CONTEXT = "data.context_tokens"
"""How long the prompt was, in tokens, whatever their class."""

SERVICE_TIER = "data.service_tier"
"""With which priority it was served: as its answer says, else as it was asked for. One of
`ServiceTier`, or `UNLISTED_TIER`."""


class ServiceTier(StrEnum):
    """A priority that a plan can price.

    The list is closed, because a client's own words would make as many rows of rollups as it
    likes, and be usage that nobody priced.
    """

    DEFAULT = "default"
    FLEX = "flex"
    PRIORITY = "priority"
    SCALE = "scale"
    BATCH = "batch"


UNLISTED_TIER = "unlisted"
"""A tier that an answer names and no plan can: priced where a plan says `others`, else unrated."""

UNREADABLE_TIER = "?"
"""In place of the name of a tier that cannot be read; no name has this form."""

_NAMED: Mapping[str, ServiceTier] = MappingProxyType(
    {**{tier.value: tier for tier in ServiceTier}, "standard": ServiceTier.DEFAULT}
)
"""By what requests and answers call it: OpenAI `default`, Anthropic `standard`."""

_NO_TIER = frozenset({"", "auto", "standard_only"})
"""What leaves it to the engine, and so names none."""

_CAN_BE_ASKED = (_NAMED.keys() | _NO_TIER) - {ServiceTier.BATCH.value}
"""A batch is one by how it was sent, and not because it says so."""

_VALUES = {token_class.meter: f"data.{token_class.value}_tokens" for token_class in TokenClass}
_EXAMPLE = "see billing/planfiles/examples/meters/tokens-input.yaml"


def is_token_meter(code: str) -> bool:
    """Whether a meter is built in and counts a class of tokens."""
    return code in _VALUES


def asked_tier(name: str) -> ServiceTier:
    """The tier that a request asks for; one that nobody can ask for is the engine's to refuse,
    and counts as the default."""
    return _NAMED.get(name, ServiceTier.DEFAULT) if name in _CAN_BE_ASKED else ServiceTier.DEFAULT


def served_tier(named: str, *, asked: str) -> str:
    """The tier that an answer names, as its event carries it.

    One that is in no list is not the default, whose price may be lower. But where the request
    asked for one that nobody can ask for, the answer may just repeat that word: a client could
    keep its usage off its invoice by it, or have it for the price of a batch.

    Args:
        named: by the answer; '' for none, `UNREADABLE_TIER` where it is no name.
        asked: the request's own word; '' for none.

    Returns:
        '' where the answer says nothing, so that the tier that was asked for counts.
    """
    if named in _NO_TIER or not (named in _CAN_BE_ASKED or asked in _CAN_BE_ASKED):
        return ""
    tier = _NAMED.get(named)
    return UNLISTED_TIER if tier is None else tier.value


def carried_by(counts: TokenCounts, tier: str) -> tuple[tuple[str, str], ...]:
    """(path, text) of what a request carries for dimensions of the meters of tokens.

    Args:
        tier: of `ServiceTier`, or `UNLISTED_TIER`; '' for the default.
    """
    context = counts.input + counts.cached_input + counts.cache_write
    return ((CONTEXT, str(context)), (SERVICE_TIER, tier or ServiceTier.DEFAULT.value))


def require_token_meter(meter: Meter, reading: Reading) -> None:
    """Check what a file says of a built-in meter of tokens.

    Raises:
        InvalidInput: it would count something else, or split it by what no request carries.
    """
    expected = _VALUES[meter.code]
    if (meter.unit, meter.aggregation, meter.informational) != ("tokens", Aggregation.SUM, False):
        raise InvalidInput("this meter is built in: it sums tokens", field="unit", remedy=_EXAMPLE)
    if reading.event_type != REQUEST_EVENT:
        raise InvalidInput(
            "this meter is built in: it counts requests",
            field="event_type",
            remedy=f"write {REQUEST_EVENT}, or choose another code for yours",
        )
    if reading.value != expected:
        raise InvalidInput(
            "this meter is built in: it counts its class", field="value", remedy=f"write {expected}"
        )
    if reading.where or reading.filter is not None:
        raise InvalidInput(
            "a built-in meter counts every request",
            field="where" if reading.where else "filter",
            remedy="leave it out, or choose another code for yours",
        )
    for position, dimension in enumerate(reading.dimensions):
        _require_dimension(dimension, field=f"dimensions[{position}]")


def _require_dimension(dimension: Dimension, *, field: str) -> None:
    if dimension.path not in {CONTEXT, SERVICE_TIER}:
        raise InvalidInput(
            "no request carries this", field=f"{field}.path", remedy=f"{CONTEXT} or {SERVICE_TIER}"
        )
    if dimension.path == CONTEXT and not dimension.edges:
        raise InvalidInput(
            "every length of a context would be a value of its own",
            field=f"{field}.edges",
            remedy="say where bands begin, like [32000, 200000]",
        )
    if dimension.path == SERVICE_TIER and dimension.edges:
        raise InvalidInput(
            "a service tier is no number", field=f"{field}.edges", remedy="leave edges out"
        )
