"""Requests of the Responses API, as far as they are more than text in and text out.

Decides: which ids of stored objects a request names, and what is refused because it would run
unwatched, keep something that belongs to nobody, or cost what no meter counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from billing.engines.member_names import names
from billing.engines.member_values import decoded, flag, text
from billing.engines.nested_members import file_ids, require_tools
from billing.engines.splice import Members
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import NotFound

MEMBERS = names(
    "background context_management conversation image include input instructions"
    " max_output_tokens max_tool_calls metadata model moderation parallel_tool_calls"
    " previous_response_id prompt prompt_cache_key prompt_cache_options prompt_cache_retention"
    " reasoning safety_identifier service_tier store stream stream_options temperature text"
    " tool_choice tools top_logprobs top_p truncation user access_programs"
)
"""Members that OpenAI documents."""

# They name something that a backend keeps and that is bound to no tenant here.
_UNBOUND = ("conversation", "prompt")
_CLIENT_TOOLS = re.compile("function|custom")


class _Item(msgspec.Struct, frozen=True):
    """An item of the input; without a type or a role its id refers to a stored one."""

    id: msgspec.Raw = msgspec.Raw(b"")
    type: str | None = None
    role: str | None = None


_ITEMS = msgspec.json.Decoder(list[_Item])


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReferences:
    """What a request says of stored objects.

    Attributes:
        previous_response_id: of the response that it goes on from.
        file_ids: of files in its input.
        store: whether the response is to be kept; None where it does not say.
    """

    previous_response_id: str | None
    file_ids: tuple[str, ...]
    store: bool | None


def read_references(members: Members) -> StoredReferences:
    """Read a request of the Responses API.

    Raises:
        InvalidInput: a member of the wrong type.
        UnsupportedParameter: a background run, a conversation, a stored prompt, or a tool that
            the backend would run.
        NotFound: it refers to an item that a backend keeps; those belong to nobody.
    """
    if flag(members, "background"):
        raise UnsupportedParameter(
            "Background responses are not served.", field="background", remedy="Stream instead."
        )
    for name in _UNBOUND:
        if name in members.values and bytes(members.values[name]) != b"null":
            raise UnsupportedParameter(
                "Refers to an object that is not served.", field=name, remedy="Leave it out."
            )
    require_tools(members, _CLIENT_TOOLS)
    _refuse_item_references(members)
    return StoredReferences(
        previous_response_id=text(members, "previous_response_id"),
        file_ids=file_ids(members, ("input", "tools")),
        store=flag(members, "store"),
    )


def _refuse_item_references(members: Members) -> None:
    span = members.spans.get("input")
    if span is None or members.body[span.value : span.value + 1] != b"[":
        return
    for item in decoded(members.values["input"], _ITEMS, "input", "a string or a list of objects"):
        named = bytes(item.id) not in {b"", b"null"}
        if item.type == "item_reference" or (named and item.type is None and item.role is None):
            raise NotFound(
                "There is no such item, or you do not have access to it.",
                field="input",
                remedy="Send the item itself.",
            )
