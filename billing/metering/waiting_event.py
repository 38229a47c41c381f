"""What is kept of an event's data while the event waits for a meter or for its time.

Decides: that data is kept whole or not at all, because a meter's filter could judge a part of it
otherwise; that it is short and holds no long text, so that no prompt waits here (P1); that its
numbers are read back as they came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import cast

from billing.errors import InvalidInput
from billing.metering.usage_event import TEXT_BYTES_MAX

DATA_BYTES_MAX = 16_384
"""Most bytes of one event's data, written as JSON."""

DEPTH_MAX = 16
"""How deep data may be nested."""


def written_data(data: Mapping[str, object]) -> str | None:
    """Data as ASCII JSON; None if it is too long, too deep, or holds what is not kept."""
    try:
        text = _written(data, DEPTH_MAX)
    except (InvalidInput, ValueError):  # ValueError: a number of more digits than can be written
        return None
    return text if len(text) <= DATA_BYTES_MAX else None


def read_data(text: str) -> dict[str, object]:
    """The data that `written_data` wrote; numbers are int or Decimal."""
    return cast("dict[str, object]", json.loads(text, parse_float=Decimal))


def _written(value: object, depth: int) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case int():
            return str(value)
        case Decimal() if value.is_finite():
            return str(value)
        case str() if len(value.encode(errors="surrogatepass")) <= TEXT_BYTES_MAX:
            return json.dumps(value)
        case Mapping() if depth:
            members = cast("Mapping[str, object]", value).items()
            pairs = (f"{_written(name, 0)}:{_written(each, depth - 1)}" for name, each in members)
            return "{" + ",".join(pairs) + "}"
        case list() | tuple() if depth:
            items = cast("list[object]", value)
            return "[" + ",".join(_written(each, depth - 1) for each in items) + "]"
        case _:
            raise InvalidInput(
                "not kept while an event waits",
                field="data",
                remedy="send less data, or define its meter first",
            )
