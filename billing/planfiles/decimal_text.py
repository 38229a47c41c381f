"""Decimal numbers in files: quoted text or whole numbers, never floats.

Decides: how an amount or a quantity is written in a file and in a stored document.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from billing.errors import InvalidInput
from billing.money import exact_decimal, plain

_PATTERN = r"^[-+]?[0-9]+(\.[0-9]+)?$"


def _read(value: object) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PydanticCustomError(
            "decimal_text",
            "not a number",
            {"remedy": 'write it as quoted text like "0.25", or as a whole number'},
        )
    try:
        return exact_decimal(str(value), field="number")
    except InvalidInput as refused:
        raise PydanticCustomError(
            "decimal_text",
            "{reason}",
            {"reason": refused.message, "remedy": refused.remedy},
        ) from None


DecimalText: TypeAlias = Annotated[
    Decimal,
    BeforeValidator(_read),
    PlainSerializer(plain, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": _PATTERN}, {"type": "integer"}],
            "description": "An exact decimal number: quoted text, or a whole number.",
        }
    ),
]
"""A field that holds an exact decimal."""
