"""Members of a request that are text and nothing else, told by their shape.

Decides: when a member need not be searched for names that are hidden in it. The decoder passes a
long text ten times as fast as a search for a name does, and of what it accepts every name at every
depth is known, however it is spelled and however often it is repeated. What it does not accept
may be text all the same: then the search decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from billing.engines.splice import Members


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "input_text", "output_text"]
    text: str


class _Called(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    function: _Called
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None


_MESSAGES = msgspec.json.Decoder(str | list[_Message] | None)


def is_text(members: Members, names: Iterable[str]) -> bool:
    """Whether the members of these names, as far as they are there, are surely only text."""
    known, values = members.texts, members.values
    for name in names:
        if name in known or name not in values:
            continue
        try:
            _MESSAGES.decode(values[name])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        known.add(name)
    return True
