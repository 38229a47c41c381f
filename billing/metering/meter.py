"""Meters: what is counted, in which unit, how values of a period combine.

A meter is a versioned, immutable row; so are the built-in token meters. An event names the meter
version that counted it, and a rollup is kept per meter version.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from billing.metering.token_class import TokenClass


class Aggregation(StrEnum):
    """How the values of a bucket combine. The state of `sum` is the running sum."""

    SUM = "sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """One version of a meter.

    Attributes:
        code: stable name that charges refer to, such as `tokens.output`.
        unit: what one unit of quantity is, in words for a bill.
        aggregation: how values combine.
        informational: True if quantities that no charge prices are not an error (requests are
            counted for everybody, and priced by few).
    """

    code: str
    unit: str
    aggregation: Aggregation = Aggregation.SUM
    informational: bool = False


REQUESTS = "requests"

BUILT_IN: tuple[Meter, ...] = (
    *(Meter(code=token_class.meter, unit="tokens") for token_class in TokenClass),
    Meter(code=REQUESTS, unit="requests", informational=True),
)
"""Meters that exist before any operator defines one; the order is that of an event's quantities."""

OUTCOME_PREFIX = "outcome."


def outcome_meter(slug: str) -> Meter:
    """The meter that counts confirmed outcomes of one definition."""
    return Meter(code=f"{OUTCOME_PREFIX}{slug}", unit="outcomes")
