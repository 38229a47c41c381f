"""Decimal numbers in files: quoted text or whole numbers, never floats.

Decides: how an amount or a quantity is written in a file and in a stored document, and that an
amount may be written once per currency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, TypeAlias, cast

from pydantic import BeforeValidator, PlainSerializer, ValidationInfo, WithJsonSchema
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


def read_amount(value: object, currencies: Sequence[str]) -> Decimal:
    """An amount as it is written in one of a plan's currencies.

    Args:
        currencies: of the plan, first the one that is read.

    Raises:
        PydanticCustomError: not a number, none in this currency, or one in a currency that the
            plan does not have: whoever wrote it believes that the plan is sold in it.
    """
    if not isinstance(value, dict):
        return _read(value)
    amounts = cast("Mapping[str, object]", value)
    if amounts.keys() - set(currencies):
        raise PydanticCustomError(
            "decimal_text",
            "an amount in a currency that the plan does not have",
            {"remedy": "name the currency under currencies, or remove the amount"},
        )
    if not currencies or currencies[0] not in amounts:
        raise PydanticCustomError(
            "decimal_text",
            "no amount in one of the plan's currencies",
            {"remedy": "write one number, or one for each of currency and currencies"},
        )
    return _read(amounts[currencies[0]])


def _read_in_currency(value: object, info: ValidationInfo) -> Decimal:
    context = cast("Mapping[str, Any]", info.context or {})
    return read_amount(value, context.get("currencies", ()))


_NUMBER: list[dict[str, Any]] = [{"type": "string", "pattern": _PATTERN}, {"type": "integer"}]

DecimalText: TypeAlias = Annotated[
    Decimal,
    BeforeValidator(_read),
    PlainSerializer(plain, return_type=str),
    WithJsonSchema(
        {
            "anyOf": _NUMBER,
            "description": "An exact decimal number: quoted text, or a whole number.",
        }
    ),
]
"""A field that holds an exact decimal."""

AmountText: TypeAlias = Annotated[
    Decimal,
    BeforeValidator(_read_in_currency),
    PlainSerializer(plain, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                *_NUMBER,
                {
                    "type": "object",
                    "propertyNames": {"pattern": "^[A-Z]{3}$"},
                    "additionalProperties": {"anyOf": _NUMBER},
                },
            ],
            "description": (
                "An exact amount in major units: quoted text, a whole number, or one of these "
                'for each currency of the plan, like {USD: "0.10", EUR: "0.09"}.'
            ),
        }
    ),
]
"""A field that holds an exact amount of money, in one currency or one of each."""
