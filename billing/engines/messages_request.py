"""Requests of the Messages API, as Anthropic's clients send them.

Decides: which members and beta features pass, and what is refused because a backend would run or
keep something that no meter counts.
"""

from __future__ import annotations

import re

from billing.engines.member_names import names
from billing.engines.member_values import count
from billing.engines.nested_members import require_tools
from billing.engines.splice import Members
from billing.engines.unsupported import UnsupportedParameter
from billing.errors import InvalidInput

COUNTED = names(
    "cache_control messages model output_config speed system thinking tool_choice tools"
    " user_profile_id workspace_id"
)
"""Members that Anthropic documents for counting tokens."""

MEMBERS = COUNTED | names(
    "container diagnostics inference_geo max_tokens metadata service_tier stop_sequences stream"
    " temperature top_k top_p"
)
"""Members that Anthropic documents for messages."""

BETAS: frozenset[bytes] = frozenset()
"""Values of `anthropic-beta` that pass. None does: each changes what a request can cost."""

_CLIENT_TOOLS = re.compile(r"custom|(?:bash|text_editor|computer|memory)_[0-9]{8}")


def require_message(members: Members, *, generates: bool) -> None:
    """Refuse what cannot be metered.

    Args:
        generates: it asks for an answer, not only for a count.

    Raises:
        InvalidInput: no `max_tokens`, or a member of the wrong type.
        UnsupportedParameter: a container, or a tool that the backend would run.
    """
    if generates and count(members, "max_tokens", minimum=0) is None:
        raise InvalidInput("You must provide a max_tokens parameter.", field="max_tokens")
    if "container" in members.values and bytes(members.values["container"]) != b"null":
        raise UnsupportedParameter(
            "Refers to an object that is not served.", field="container", remedy="Leave it out."
        )
    require_tools(members, _CLIENT_TOOLS)


def passed_betas(values: list[bytes]) -> bytes | None:
    """The value of `anthropic-beta` for the backend; None for none.

    Args:
        values: of every such header, each a list with commas.
    """
    asked = [beta.strip() for value in values for beta in value.split(b",")]
    return b",".join(beta for beta in asked if beta in BETAS) or None
