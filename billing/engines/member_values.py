"""Values of top-level members, read with the type that they must have.

Decides: how a wrong type is refused: by the member's name, never by its value.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from billing.engines.splice import Members
from billing.errors import InvalidInput

_Value = TypeVar("_Value")

_TEXT = msgspec.json.Decoder(str)
_OPTIONAL_TEXT = msgspec.json.Decoder(str | None)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(int | None)


def required_text(members: Members, name: str) -> str:
    """Text that has to be there.

    Raises:
        InvalidInput: it is missing or no string.
    """
    raw = members.values.get(name)
    if raw is None:
        raise InvalidInput(f"You must provide a {name} parameter.", field=name)
    return decoded(raw, _TEXT, name, "a string")


def text(members: Members, name: str) -> str | None:
    """Text, or None where it is absent or null.

    Raises:
        InvalidInput: it is no string.
    """
    raw = members.values.get(name)
    return None if raw is None else decoded(raw, _OPTIONAL_TEXT, name, "a string")


def flag(members: Members, name: str) -> bool | None:
    """True or false, or None where it is absent or null.

    Raises:
        InvalidInput: it is something else.
    """
    raw = members.values.get(name)
    return None if raw is None else decoded(raw, _FLAG, name, "true, false or null")


def count(members: Members, name: str, *, minimum: int) -> int | None:
    """A whole number, or None where it is absent or null.

    Raises:
        InvalidInput: it is none, or too small.
    """
    raw = members.values.get(name)
    if raw is None:
        return None
    number = decoded(raw, _COUNT, name, "a whole number")
    if number is not None and number < minimum:
        raise InvalidInput(f"Must be at least {minimum}.", field=name)
    return number


def decoded(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[_Value], field: str, expected: str
) -> _Value:
    """A value by its decoder.

    Raises:
        InvalidInput: it is not what the decoder takes.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(f"Must be {expected}.", field=field) from None
