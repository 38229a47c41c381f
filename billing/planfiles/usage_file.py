"""Recorded usage as JSON Lines: what `steelyard rate` prices without a database.

Decides: how a row of usage is written and which rows are refused. A row names a meter and its
quantity, or carries token counts by class:

    {"meter": "requests", "model": "sim-small", "quantity": "3"}
    {"tokens": "output", "model": "sim-small", "quantity": 1200}
    {"model": "sim-small", "input": 900, "cached_input": 100, "output": 1200}
    {"meter": "gpu.hours", "quantity": "2.5", "dimensions": {"slice": "1g.10gb"},
     "at": "2026-11-02T09:00:00Z"}

Rows are summed by meter, model, dimensions and quarter hour; the last two may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any, TypeAlias, cast

from billing.catalog.selector import require_model
from billing.errors import InvalidInput
from billing.metering.dimension import require_dimension
from billing.metering.token_class import TokenClass
from billing.money import EXACT, QUANTITY_DECIMALS_MAX, QUANTITY_MAX, exact_decimal
from billing.period import bucket_of, parse_instant
from billing.rating.quantity import MeteredQuantity

LINE_CHARACTERS_MAX = 10_000

_CLASSES = {token_class.value: token_class for token_class in TokenClass}
_ZERO = Decimal(0)

_Place: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...], datetime | None]


def read_usage(lines: Iterable[str]) -> tuple[MeteredQuantity, ...]:
    """Read and sum the rows of a usage file.

    Args:
        lines: of the file; blank ones are skipped.

    Raises:
        InvalidInput: `field` names line and member, like `line 3: quantity`.
        AmountOutOfRange: a quantity beyond 10^18.
    """
    summed: dict[_Place, Decimal] = {}
    with localcontext(EXACT):
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            for place, quantity in _row(line, number):
                summed[place] = summed.get(place, _ZERO) + quantity
    return tuple(
        MeteredQuantity(meter=meter, model=model, quantity=quantity, dimensions=dimensions, at=at)
        for (meter, model, dimensions, at), quantity in summed.items()
    )


def _row(line: str, number: int) -> Iterator[tuple[_Place, Decimal]]:
    """The quantities of one row; each is checked before it is handed on."""
    row = _parse(line, number)
    model = _model(row.pop("model", None), number)
    dimensions = _dimensions(row.pop("dimensions", {}), number)
    at = _instant(row.pop("at", None), number)
    if "meter" in row or "tokens" in row:
        meter = _meter(row, number)
        if "quantity" not in row:
            raise _refused("a required member is missing", number, "quantity", "add it")
        counts = {meter: row.pop("quantity")}
    else:
        counts = {
            token_class.meter: row.pop(name)
            for name, token_class in _CLASSES.items()
            if name in row
        }
        if not counts:
            raise _refused("the row counts nothing", number, "meter", "name a meter or tokens")
    if row:
        raise _refused("unknown member", number, min(row), "remove it or correct its spelling")
    for meter, count in counts.items():
        yield (meter, model, dimensions, at), _quantity(count, number, meter)


def _parse(line: str, number: int) -> dict[str, Any]:
    if len(line) > LINE_CHARACTERS_MAX:
        raise _refused("the line is too long", number, "", f"at most {LINE_CHARACTERS_MAX}")
    try:
        parsed: object = json.loads(
            line,
            object_pairs_hook=lambda pairs: _members(pairs, number),
            parse_float=lambda _: _no_float(number),
            parse_constant=lambda _: _no_float(number),
        )
    except (ValueError, RecursionError):
        raise _refused("not a JSON object", number, "", "write one object per line") from None
    if not isinstance(parsed, dict):
        raise _refused("not a JSON object", number, "", "write one object per line")
    return cast("dict[str, Any]", parsed)


def _members(pairs: list[tuple[str, Any]], number: int) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _refused("a member occurs twice", number, "", "keep one of them")
    return members


def _no_float(number: int) -> None:
    raise _refused(
        "a number with a point or exponent would become a binary float",
        number,
        "",
        'write it as text: "0.25"',
    )


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
    """The quarter hour that holds an instant."""
    if written is None:
        return None
    if not isinstance(written, str):
        raise _refused("not a time", number, "at", "write it like 2026-11-02T09:00:00Z")
    return bucket_of(parse_instant(written, field=f"line {number}: at"))


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
