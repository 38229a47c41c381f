"""Meters: what is counted, in which unit, how values of a period combine.

A meter is a versioned, immutable row; so are the built-in token meters. An event names the meter
version that counted it, and a rollup is kept per meter version. Versions of one meter agree on
unit and aggregation, so that usage of a period which spans two of them is still one figure.
Decides nothing about filters: a meter carries their text, an adapter evaluates it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import assert_never

from billing.errors import InvalidInput
from billing.metering.dimension import (
    DIMENSIONS_MAX,
    Dimension,
    at_path,
    number_at,
    require_path,
)
from billing.metering.token_class import TokenClass
from billing.metering.unit_meter import UnitMeter
from billing.metering.usage_event import require_text
from billing.money import EXACT, QUANTITY_DECIMALS_MAX, plain
from billing.period import require_on_grid

UNIQUE_VALUES = 10**36
"""How many numbers can stand for a value of a `unique` meter: those with 18 digits before the
point and 18 after it, which is what a quantity may have."""

_CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9][a-z0-9_-]*)*")
_ONE = Decimal(1)


class State(StrEnum):
    """What has to be kept of a bucket so that buckets can be combined.

    `additive`: the running sum, which is what a rollup keeps and what a void can be taken off.
    `mergeable`: a state of fixed size that combines, but from which nothing can be taken off.
    `raw`: the events themselves. All but `additive` are read from the period's events.
    """

    ADDITIVE = "additive"
    MERGEABLE = "mergeable"
    RAW = "raw"


class Aggregation(StrEnum):
    """How the values of a period combine; `billing.metering.aggregation` has the arithmetic."""

    SUM = "sum"
    COUNT = "count"
    UNIQUE = "unique"
    MAX = "max"
    LATEST = "latest"
    TIME_WEIGHTED_SUM = "time_weighted_sum"
    PERCENTILE = "percentile"

    @property
    def state(self) -> State:
        """What has to be kept to combine buckets."""
        match self:
            case Aggregation.SUM | Aggregation.COUNT:
                return State.ADDITIVE
            case Aggregation.MAX:
                return State.MERGEABLE
            case (
                Aggregation.UNIQUE
                | Aggregation.LATEST
                | Aggregation.TIME_WEIGHTED_SUM
                | Aggregation.PERCENTILE
            ):
                return State.RAW
            case _:
                assert_never(self)


LEVELS = frozenset(
    {
        Aggregation.MAX,
        Aggregation.LATEST,
        Aggregation.TIME_WEIGHTED_SUM,
        Aggregation.PERCENTILE,
    }
)
"""Aggregations of readings, which may lie below zero; what adds up is taken back by corrections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """What a meter is, whatever its version.

    Attributes:
        code: stable name that charges refer to, such as `tokens.output`.
        unit: what one unit of quantity is, in words for a bill.
        aggregation: how values combine.
        percentile: for `percentile`, which one: above 0, at most 100.
        informational: True if quantities that no charge prices are not an error (requests are
            counted for everybody, and priced by few).

    Raises:
        InvalidInput: a malformed code or unit, or a percentile where none belongs.
    """

    code: str
    unit: str
    aggregation: Aggregation = Aggregation.SUM
    percentile: Decimal | None = None
    informational: bool = False

    def __post_init__(self) -> None:
        if len(self.code) > 100 or _CODE.fullmatch(self.code) is None:
            raise InvalidInput("malformed code", field="code", remedy="write it like gpu.hours")
        require_text(self.unit, field="unit")
        if (self.aggregation is Aggregation.PERCENTILE) != (self.percentile is not None):
            raise InvalidInput(
                "a percentile belongs to the aggregation percentile, and to no other",
                field="percentile",
                remedy='write percentile: "95" with aggregation: percentile, else leave it out',
            )
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise InvalidInput(
                "not above 0 and at most 100", field="percentile", remedy="use a number like 95"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a meter version reads events.

    Attributes:
        event_type: type of the events that it counts.
        value: path of the value, such as `data.tokens`; None counts every event as one.
        where: (path, text) pairs that all have to be equal; needs no expression language.
        filter: a CEL expression that has to be true, or None.
        dimensions: by what its usage can be split.

    Raises:
        InvalidInput: malformed paths, or two dimensions of one name.
    """

    event_type: str
    value: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    filter: str | None = None
    dimensions: tuple[Dimension, ...] = ()

    def __post_init__(self) -> None:
        require_text(self.event_type, field="event_type")
        if self.value is not None:
            require_path(self.value, field="value")
        for path, _ in self.where:
            require_path(path, field="where")
        if len(self.dimensions) > DIMENSIONS_MAX:
            raise InvalidInput(
                "too many dimensions", field="dimensions", remedy=f"at most {DIMENSIONS_MAX}"
            )
        if len({dimension.name for dimension in self.dimensions}) < len(self.dimensions):
            raise InvalidInput(
                "two dimensions of one name", field="dimensions", remedy="name each once"
            )

    def selects_plainly(self, data: Mapping[str, object]) -> bool:
        """Whether the equalities hold; a value that is absent is equal to nothing."""
        return all(_text(at_path(data, path)) == text for path, text in self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterVersion:
    """One version of a meter; a change of how events are read is a new version.

    Attributes:
        version: 1 for the first.
        effective_from: on the 15-minute grid; counts events that occurred from then on, until the
            next version does.
        reading: how events of outside are read; None for built-in meters, whose quantities come
            counted.

    Raises:
        InvalidInput: an instant off the grid, or a value where the aggregation takes none.
    """

    meter: Meter
    version: int
    effective_from: datetime
    reading: Reading | None = None

    def __post_init__(self) -> None:
        if self.reading is None:
            return
        require_on_grid(self.effective_from, field="effective_from")
        counts = self.meter.aggregation is Aggregation.COUNT
        if counts != (self.reading.value is None):
            raise InvalidInput(
                "count takes no value, every other aggregation takes one",
                field="value",
                remedy="leave it out for count, else write a path like data.tokens",
            )

    def quantity_of(self, data: Mapping[str, object]) -> Decimal:
        """The quantity that an event's `data` yields, as the ledger keeps it.

        Raises:
            InvalidInput: no value that this aggregation can use stands at the path.
        """
        assert self.reading is not None, "a built-in meter reads no event"
        if self.reading.value is None:
            return _ONE
        found = at_path(data, self.reading.value)
        if self.meter.aggregation is Aggregation.UNIQUE:
            return fingerprint(found, field=self.reading.value)
        number = number_at(found, field=self.reading.value)
        if number < 0 and self.meter.aggregation.state is State.ADDITIVE:
            raise InvalidInput(
                "quantity is negative",
                field=self.reading.value,
                remedy="report a correction that names the event it corrects",
            )
        return number


def fingerprint(value: object, *, field: str) -> Decimal:
    """The number that stands for a value in a `unique` meter: equal values, equal numbers.

    Of n different values two meet in one number with a chance of n^2 / (2 x 10^36): of 10^12
    values, one chance in 2 x 10^12. A number and the same number as text are the same value.

    Raises:
        InvalidInput: nothing is there, or it is neither text nor number nor true or false.
    """
    text = _text(value)
    if text is None:
        raise InvalidInput(
            "neither text nor a number, or missing", field=field, remedy="send text or a number"
        )
    digest = int.from_bytes(hashlib.blake2b(text.encode()).digest()) % UNIQUE_VALUES
    return Decimal(digest).scaleb(-QUANTITY_DECIMALS_MAX, context=EXACT)


def _text(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal() if value.is_finite():
            return plain(value)
        case str():
            return value
        case _:
            return None


REQUESTS = "requests"

BUILT_IN: tuple[Meter, ...] = (
    *(Meter(code=token_class.meter, unit="tokens") for token_class in TokenClass),
    Meter(code=REQUESTS, unit="requests", informational=True),
)
"""Meters that exist before any operator defines one; the order is that of an event's quantities."""

UNIT_METERS: tuple[Meter, ...] = (
    Meter(code=UnitMeter.IMAGES.value, unit="images"),
    Meter(code=UnitMeter.AUDIO_MS.value, unit="seconds"),
    Meter(code=UnitMeter.CHARACTERS.value, unit="characters"),
    Meter(code=UnitMeter.SEARCHES.value, unit="searches"),
)
"""Built-in meters that only some events carry, behind the quantities of the others."""

OUTCOME_PREFIX = "outcome."

_BUILT_IN = {meter.code: meter for meter in (*BUILT_IN, *UNIT_METERS)}


def outcome_meter(slug: str) -> Meter:
    """The meter that counts confirmed outcomes of one definition."""
    return Meter(code=f"{OUTCOME_PREFIX}{slug}", unit="outcomes")


def built_in_meter(code: str) -> Meter:
    """The meter of a code that exists without being declared.

    Raises:
        KeyError: no such meter.
    """
    if code.startswith(OUTCOME_PREFIX):
        return outcome_meter(code.removeprefix(OUTCOME_PREFIX))
    return _BUILT_IN[code]
