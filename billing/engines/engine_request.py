"""The body that an engine gets.

Decides: which members of a request pass, are refused or cut out, and what is spliced in so that
the engine reports usage.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from billing.admission.route import Route
from billing.engines.audio_request import upstream_form
from billing.engines.capabilities import Capabilities
from billing.engines.read_request import InferenceRequest
from billing.engines.request_members import OPENAI_MEMBERS, OPERATOR_CONTROLLED
from billing.engines.splice import locate, splice
from billing.engines.unsupported import UnsupportedParameter


def upstream_body(
    request: InferenceRequest, engine: Capabilities, *, upstream_model: str | None
) -> bytes:
    """The body for the engine: the client's bytes with as few splices as the meter needs.

    Args:
        upstream_model: the engine's own name of the model, or None where it is the client's.

    Raises:
        UnsupportedParameter: a member that neither OpenAI documents nor this engine is known
            to take.
    """
    if request.form is not None:
        return upstream_form(
            request.form, upstream_model=upstream_model, sampling=bool(engine.request_members)
        )
    names = request.members.values.keys()
    drop: set[str] = set()
    allowed = _allowed(request.route, engine.request_members)
    if not names <= allowed:
        drop = names & OPERATOR_CONTROLLED
        unknown = names - allowed - OPERATOR_CONTROLLED
        if unknown:
            raise UnsupportedParameter(
                "The request has a member that this model does not take.",
                field=_nameable(min(unknown)),
                remedy="Leave it out.",
            )
    put: dict[str, bytes] = {}
    reports = request.wants_continuous if engine.continuous_usage else request.wants_usage
    if request.stream and engine.include_usage and not reports:
        put["stream_options"] = _stream_options(request, engine)
    if upstream_model is not None and upstream_model != request.model:
        put["model"] = msgspec.json.encode(upstream_model)
    return splice(request.members, put=put, drop=drop)


@lru_cache(maxsize=256)
def _allowed(route: Route, extra: frozenset[str]) -> frozenset[str]:
    return OPENAI_MEMBERS[route] | extra


def _stream_options(request: InferenceRequest, engine: Capabilities) -> bytes:
    """Usage switched on, other options of the client kept."""
    put = {"include_usage": b"true"}
    if engine.continuous_usage:
        put["continuous_usage_stats"] = b"true"
    raw = request.members.values.get("stream_options")
    if raw is None or bytes(raw) == b"null":
        return b"{" + b",".join([b'"%b":%b' % (k.encode(), v) for k, v in put.items()]) + b"}"
    return splice(locate(bytes(raw)), put=put)


def _nameable(name: str) -> str | None:
    """A member's name if it is one that is safe to repeat."""
    return name if len(name) <= 64 and name.isidentifier() and name.isascii() else None
