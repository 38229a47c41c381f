"""What stands deeper in a request: ids of files, and tools.

Decides: which of it must be known before a request may reach a backend. Bodies are searched for
the name first, so that the common request, which has none of it, is not decoded for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, cast

import msgspec

from billing.engines.plain_text import is_text
from billing.engines.splice import Members
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput

MAX_IDS = 256

# Encoders escape control codes and what is not ASCII; a letter is escaped to hide it.
_HIDDEN_LETTER = re.compile(rb"\\u00[2-7][0-9A-Fa-f]")
_ANY = msgspec.json.Decoder()


class _Tool(msgspec.Struct, frozen=True):
    type: str | None = None


_TOOLS = msgspec.json.Decoder(list[_Tool] | None)


def may_name(text: bytes | memoryview, name: bytes) -> bool:
    """Whether a JSON text can have a member of this name, at any depth; True where in doubt."""
    content = bytes(text)
    return name in content or may_hide_names(content)


def may_hide_names(content: bytes) -> bool:
    """Whether a letter in a JSON text is spelled by its number, as one that hides a name is."""
    return b"\\u00" in content and _HIDDEN_LETTER.search(content) is not None


def file_ids(members: Members, names: Collection[str]) -> tuple[str, ...]:
    """Ids of files that a backend keeps, wherever they stand in the members of these names.

    Raises:
        InvalidInput: an id that is no text, or too many of them.
    """
    if is_text(members, names) or not may_name(members.body, b"file_id"):
        return ()
    found: dict[str, None] = {}
    for name in names:
        if name in members.values:
            _collect(_tree(members, name), found, field=name)
    return tuple(found)


def _tree(members: Members, name: str) -> object:
    try:
        return _ANY.decode(members.values[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("Cannot be read.", field=name) from None


def _collect(root: object, found: dict[str, None], *, field: str) -> None:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += cast("list[object]", node)
        elif isinstance(node, dict):
            for key, child in cast("dict[str, Any]", node).items():
                if key not in {"file_id", "file_ids"} or child is None:
                    waiting.append(child)
                    continue
                for given in cast("list[object]", child) if isinstance(child, list) else [child]:
                    if not isinstance(given, str) or len(found) >= MAX_IDS:
                        raise InvalidInput("Has a file id that cannot be taken.", field=field)
                    found[given] = None


def require_tools(members: Members, allowed: re.Pattern[str]) -> None:
    """Refuse tools that the backend would run itself: they cost, and are metered nowhere.

    Args:
        allowed: types that run at the client; a tool without a type is the client's own.

    Raises:
        InvalidInput: `tools` is no list of objects.
        UnsupportedParameter: a tool of another type.
    """
    if "tools" not in members.values:
        return
    try:
        tools = _TOOLS.decode(members.values["tools"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("Must be a list of objects.", field="tools") from None
    for tool in tools or ():
        if tool.type is not None and allowed.fullmatch(tool.type) is None:
            raise UnsupportedParameter(
                "Has a tool of a type that is not served.",
                field="tools",
                remedy="Send tools that your own program runs.",
            )
