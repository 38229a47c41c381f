"""Recorded usage as JSON Lines: what `steelyard rate` prices without a database.

Decides: how a line of usage is written and which lines are refused; `usage_tally` decides what
they add up to. A line names a meter and says how much of it was used, or carries token counts by
class. `model`, `dimensions` and `at` may be left out where no price asks for them:

    {"model": "sim-small", "input": 900, "cached_input": 100, "output": 1200}
    {"tokens": "output", "model": "sim-small", "quantity": 1200}
    {"meter": "gpu.hours", "quantity": "2.5", "dimensions": {"slice": "1g.10gb"},
     "at": "2026-11-02T09:00:00Z"}
    {"meter": "sales.value", "transactions": ["19.90", "5"]}
    {"meter": "seats", "level": 12, "at": "2026-11-10T00:00:00Z"}
    {"meter": "active.users", "value": "user-17"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, assert_never, cast

from billing.catalog.selector import require_model
from billing.errors import InvalidInput
from billing.metering.dimension import require_dimension
from billing.metering.meter import fingerprint
from billing.metering.token_class import TokenClass
from billing.money import QUANTITY_DECIMALS_MAX, QUANTITY_MAX, exact_decimal
from billing.period import parse_instant

LINE_CHARACTERS_MAX = 10_000

_CLASSES = {token_class.value: token_class for token_class in TokenClass}


class Said(StrEnum):
    """How a line says what was used."""

    QUANTITY = "quantity"
    TRANSACTIONS = "transactions"
    LEVEL = "level"
    VALUE = "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """What one line says of one meter.

    Attributes:
        number: of the line, from 1.
        dimensions: names and values, sorted by name.
        at: when it was used, or the level was set.
        figures: the quantity, the values of the transactions, the level, or the number that
            stands for the value.
    """

    number: int
    meter: str
    model: str | None
    dimensions: tuple[tuple[str, str], ...]
    at: datetime | None
    said: Said
    figures: tuple[Decimal, ...]

    def refuse(self, message: str, *, member: str, remedy: str) -> InvalidInput:
        """An error about the line."""
        return _refused(message, self.number, member, remedy)


def read_line(line: str, number: int) -> Iterator[UsageLine]:
    """What a line says, of every meter that it names; a blank one says nothing.

    Raises:
        InvalidInput: `field` names line and member, like `line 3: quantity`.
        AmountOutOfRange: a quantity beyond 10^18.
    """
    if not line.strip():
        return
    row = _parse(line, number)
    model = _model(row.pop("model", None), number)
    dimensions = _dimensions(row.pop("dimensions", {}), number)
    at = _instant(row.pop("at", None), number)
    if "meter" in row or "tokens" in row:
        meter = _meter(row, number)
        said = _said(row, number)
        counts = [(meter, said, row.pop(said))]
    else:
        counts = [
            (token_class.meter, Said.QUANTITY, row.pop(name))
            for name, token_class in _CLASSES.items()
            if name in row
        ]
        if not counts:
            raise _refused("the row counts nothing", number, "meter", "name a meter or tokens")
    if row:
        raise _refused("unknown member", number, min(row), "remove it or correct its spelling")
    for meter, said, written in counts:
        yield UsageLine(
            number=number,
            meter=meter,
            model=model,
            dimensions=dimensions,
            at=at,
            said=said,
            figures=_figures(said, written, number, meter),
        )


def _said(row: Mapping[str, Any], number: int) -> Said:
    found = [said for said in Said if said in row]
    if not found:
        raise _refused(
            "a required member is missing", number, "quantity", f"add one of {', '.join(Said)}"
        )
    if len(found) > 1:
        raise _refused("said twice", number, found[1], f"leave out {found[0]} or {found[1]}")
    return found[0]


def _figures(said: Said, written: object, number: int, meter: str) -> tuple[Decimal, ...]:
    match said:
        case Said.QUANTITY | Said.LEVEL:
            return (_quantity(written, number, meter),)
        case Said.TRANSACTIONS:
            if not isinstance(written, list):
                raise _refused("not a list", number, said, 'write it like ["19.90", "5"]')
            values = cast("list[object]", written)
            return tuple(_quantity(value, number, said) for value in values)
        case Said.VALUE:
            return (fingerprint(written, field=f"line {number}: {said}"),)
        case _:
            assert_never(said)


class _NotExact(ValueError):
    """JSON whose meaning would be lost; the two arguments are what is wrong and the remedy."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotExact("a member occurs twice", "keep one of them")
    return members


def _no_float(_: str) -> None:
    raise _NotExact(
        "a number with a point or exponent would become a binary float",
        'write it as text: "0.25"',
    )


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=_no_float, parse_constant=_no_float
)
"""Made once: to make one for every line would cost more than to read the line."""


def _parse(line: str, number: int) -> dict[str, Any]:
    if len(line) > LINE_CHARACTERS_MAX:
        raise _refused("the line is too long", number, "", f"at most {LINE_CHARACTERS_MAX}")
    try:
        parsed: object = _DECODER.decode(line)
    except _NotExact as refused:
        message, remedy = refused.args
        raise _refused(message, number, "", remedy) from None
    except (ValueError, RecursionError):
        raise _refused("not a JSON object", number, "", "write one object per line") from None
    if not isinstance(parsed, dict):
        raise _refused("not a JSON object", number, "", "write one object per line")
    return cast("dict[str, Any]", parsed)


def _meter(row: dict[str, Any], number: int) -> str:
    if "meter" in row and "tokens" in row:
        raise _refused("both meter and tokens", number, "meter", "name one of them")
    member = "meter" if "meter" in row else "tokens"
    named = row.pop(member)
    if not isinstance(named, str) or not named or len(named) > 100:
        raise _refused("not a meter", number, member, "write it like tokens.input")
    if member == "meter":
        return named
    if named not in _CLASSES:
        raise _refused("unknown token class", number, member, f"use {', '.join(_CLASSES)}")
    return _CLASSES[named].meter


def _model(named: object, number: int) -> str | None:
    if named is None:
        return None
    if not isinstance(named, str):
        raise _refused("not the name of a model", number, "model", "write it as text")
    try:
        return require_model(named, field="model")
    except InvalidInput as refused:
        raise _refused(refused.message, number, "model", refused.remedy) from None


def _dimensions(named: object, number: int) -> tuple[tuple[str, str], ...]:
    if not isinstance(named, dict):
        raise _refused("not dimensions", number, "dimensions", 'write {"region": "eu"}')
    pairs = cast("dict[str, object]", named)
    for name, value in pairs.items():
        if not isinstance(value, str):
            raise _refused("not text", number, f"dimensions.{name}", "put it in quotes")
        try:
            require_dimension(name, field="dimensions")
        except InvalidInput as refused:
            raise _refused(refused.message, number, "dimensions", refused.remedy) from None
    return tuple(sorted((name, str(value)) for name, value in pairs.items()))


def _instant(written: object, number: int) -> datetime | None:
    if written is None:
        return None
    if not isinstance(written, str):
        raise _refused("not a time", number, "at", "write it like 2026-11-02T09:00:00Z")
    return parse_instant(written, field=f"line {number}: at")


def _quantity(count: object, number: int, meter: str) -> Decimal:
    if isinstance(count, bool) or not isinstance(count, int | str):
        raise _refused("not a number", number, meter, "write digits, or text with a point")
    field = f"line {number}: {meter}"
    quantity = exact_decimal(
        str(count), field=field, decimals_max=QUANTITY_DECIMALS_MAX, limit=QUANTITY_MAX
    )
    if quantity < 0:
        raise _refused("usage is negative", number, meter, "leave corrections out of the file")
    return quantity


def _refused(message: str, number: int, member: str, remedy: str | None) -> InvalidInput:
    field = f"line {number}: {member}" if member else f"line {number}"
    return InvalidInput(message, field=field, remedy=remedy)
