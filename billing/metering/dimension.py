"""Dimensions: the declared properties of an event by which a meter's usage can be split.

Decides: how a dimension's value is read from an event, and into which band a number falls. Only
declared dimensions leave an event, so that no prompt does (P1). Bands tile the numbers: each
falls into exactly one, so that a split by dimension adds up to the whole.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import cast

from billing.errors import InvalidInput
from billing.metering.usage_event import require_text
from billing.money import plain

DIMENSIONS_MAX = 8
"""Most dimensions of one meter."""

EDGES_MAX = 32
"""Most edges of one dimension."""

PATH_DEPTH_MAX = 8
"""Most names in a path."""

ABSENT = "none"
"""Value of a dimension that an event does not carry."""

NUMBER_CHARS_MAX = 64
"""Longest number that falls into a band."""

_PATH = re.compile(r"data(\.[A-Za-z_][A-Za-z0-9_-]*)+")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """A property by which usage can be split.

    Attributes:
        name: what reports call it.
        path: where it stands in an event, such as `data.region`.
        edges: for a number, where one band ends and the next begins, ascending; empty if the
            value itself is the dimension's value. A band holds its lower edge.

    Raises:
        InvalidInput: a malformed name or path, or edges that do not ascend.
    """

    name: str
    path: str
    edges: tuple[Decimal, ...] = ()

    def __post_init__(self) -> None:
        require_dimension(self.name, field="name")
        require_path(self.path, field="path")
        if len(self.edges) > EDGES_MAX:
            raise InvalidInput("too many edges", field="edges", remedy=f"at most {EDGES_MAX}")
        if any(upper <= lower for lower, upper in zip(self.edges, self.edges[1:], strict=False)):
            raise InvalidInput("edges do not ascend", field="edges", remedy="sort them, each once")

    def property_of(self, data: Mapping[str, object]) -> str | None:
        """What an event's `data` carries at the path, as text that is kept; None if nothing.

        It is kept and not its band, so that other edges can be drawn through what is recorded.

        Raises:
            InvalidInput: it is neither text, nor a number, nor true or false; it is too long; or,
                where there are bands, no number.
        """
        found = at_path(data, self.path)
        if found is None:
            return None
        text = require_text(_written(found, field=self.path), field=self.path)
        if self.edges and (isinstance(found, bool) or not _is_number(text)):
            raise InvalidInput(
                "not a number, or too long",
                field=self.path,
                remedy=f"send a number of at most {NUMBER_CHARS_MAX} digits",
            )
        return text

    def value_of(self, carried: str | None) -> str:
        """The value for what `property_of` found: the text itself, or the label of its band.

        What was recorded under a version without bands may be no number: it falls into none.
        """
        if carried is None:
            return ABSENT
        if not self.edges:
            return carried
        return self.band_of(Decimal(carried)) if _is_number(carried) else ABSENT

    def band_of(self, number: Decimal) -> str:
        """The label of the band that holds a number: `<8000`, `8000..32000`, `>=32000`."""
        return self._band(bisect_right(self.edges, number))

    @property
    def bands(self) -> tuple[str, ...]:
        """The labels of all bands, ascending; none where the value itself is the value."""
        if not self.edges:
            return ()
        return tuple(self._band(position) for position in range(len(self.edges) + 1))

    def _band(self, position: int) -> str:
        if position == 0:
            return f"<{plain(self.edges[0])}"
        if position == len(self.edges):
            return f">={plain(self.edges[-1])}"
        return f"{plain(self.edges[position - 1])}..{plain(self.edges[position])}"


def require_dimension(name: str, *, field: str) -> str:
    """Return a well-formed name of a dimension.

    Raises:
        InvalidInput: capitals, spaces or an overlong name.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            "malformed name of a dimension", field=field, remedy="write it like region"
        )
    return name


def require_path(path: str, *, field: str) -> str:
    """Return a plain path into an event's `data`.

    Raises:
        InvalidInput: not names joined by points that start with `data`, or too many of them.
    """
    if _PATH.fullmatch(path) is None or path.count(".") > PATH_DEPTH_MAX or len(path) > 256:
        raise InvalidInput(
            "not a plain path", field=field, remedy="write it like data.tokens, without wildcards"
        )
    return path


def at_path(data: Mapping[str, object], path: str) -> object:
    """What stands at a path that `require_path` accepted; None if nothing does."""
    *outer, last = path.split(".")[1:]
    inside = data
    for name in outer:
        member = inside.get(name)
        if not isinstance(member, Mapping):
            return None
        inside = cast("Mapping[str, object]", member)
    return inside.get(last)


def number_at(found: object, *, field: str) -> Decimal:
    """A number of an event, exactly: an integer, a decimal, or either written as text.

    Raises:
        InvalidInput: anything else; true and false are no numbers.
    """
    match found:
        case bool():
            pass
        case int():
            return Decimal(found)
        case Decimal() if found.is_finite():
            return found
        case str() if _is_number(found):
            return Decimal(found)
        case _:
            pass
    raise InvalidInput(
        "not a number, or missing", field=field, remedy='send an integer, or text like "0.25"'
    )


def _is_number(text: str) -> bool:
    return len(text) <= NUMBER_CHARS_MAX and _NUMBER.fullmatch(text) is not None


def _written(found: object, *, field: str) -> str:
    match found:
        case bool():
            return "true" if found else "false"
        case int():
            return str(found)
        case Decimal() if found.is_finite():
            return plain(found)
        case str():
            return found
        case _:
            raise InvalidInput(
                "not text and not a number", field=field, remedy="send text or a number"
            )
