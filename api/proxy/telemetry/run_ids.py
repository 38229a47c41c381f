"""Ids of an agent's run, of its step and of the agent, as the request gives them.

Decides: where they may stand (a header, else the body's `metadata`) and which texts are ids. They
are the tenant's own words, kept with the usage and never read.
"""

from __future__ import annotations

from api.proxy.client_request import ClientRequest
from billing.engines.read_request import NO_RUN, RunIds
from billing.errors import InvalidInput

_FIELDS = {
    b"x-steelyard-run-id": "run_id",
    b"x-steelyard-step-id": "step_id",
    b"x-steelyard-agent-id": "agent_id",
}
MAX_BYTES = 256


def run_ids(request: ClientRequest, named: RunIds) -> RunIds:
    """The ids of a request.

    Args:
        named: what its body's metadata says, unchecked; a header wins over it.

    Raises:
        InvalidInput: not 1 to 256 bytes of printable text, or a header that is repeated. The
            field is named, its value is not.
    """
    if named is NO_RUN and request.fields.keys().isdisjoint(_FIELDS):
        return named
    found: dict[str, str] = {}
    for name, field in _FIELDS.items():
        for value in request.all_of(name):
            shown = name.decode("ascii")
            if field in found:
                raise InvalidInput(f"The header {shown} is given twice.", field=shown)
            found[field] = _checked(value.decode("utf-8", "replace"), shown)
    return RunIds(
        found.get("run_id") or _of_metadata(named.run, "run_id"),
        found.get("step_id") or _of_metadata(named.step, "step_id"),
        found.get("agent_id") or _of_metadata(named.agent, "agent_id"),
    )


def _of_metadata(text: str, field: str) -> str:
    return _checked(text, f"metadata.{field}") if text else ""


def _checked(text: str, field: str) -> str:
    # U+FFFD stands for bytes that are no UTF-8.
    if not text or not text.isprintable() or "\ufffd" in text or len(text.encode()) > MAX_BYTES:
        raise InvalidInput(
            f"{field} is not an id.",
            field=field,
            remedy=f"Use 1 to {MAX_BYTES} bytes of printable text.",
        )
    return text
