"""What a client asks for, read from its body, and the body that the engine gets.

Decides: which members are read, refused or cut out, and what is spliced in so that the engine
reports usage. Does not judge prompts or sampling values: those pass through unread, and the
engine answers for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import msgspec

from billing.admission.route import Route
from billing.engines.capabilities import Capabilities
from billing.engines.request_members import OPENAI_MEMBERS, OPERATOR_CONTROLLED
from billing.engines.splice import Members, locate, splice
from billing.errors import InvalidInput

_Value = TypeVar("_Value")

_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(int | None)


class UnsupportedParameter(InvalidInput):
    """A request member that this engine's adapter does not know."""

    code = "unsupported_parameter"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)
_NO_OPTIONS = _StreamOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRequest:
    """The members of a request that metering reads.

    Attributes:
        model: as the client names it.
        max_tokens: the client's bound on generated tokens per choice, if it set one.
        choices: how many answers are generated (`n`).
        wants_usage: the client asked a stream for its usage.
        wants_continuous: it also asked for counts on every chunk.
        members: the body, located.
    """

    route: Route
    model: str
    stream: bool
    max_tokens: int | None
    choices: int
    wants_usage: bool
    wants_continuous: bool
    members: Members


def read_request(body: bytes, route: Route) -> InferenceRequest:
    """Read a body once.

    Raises:
        InvalidInput: not a JSON object, a repeated member, or a member of the wrong type; its
            field is named, its value never repeated.
    """
    members = locate(body)
    values = members.values
    if "model" not in values:
        raise InvalidInput("You must provide a model parameter.", field="model")
    model = _read(values["model"], _TEXT, "model", "a string")
    stream = "stream" in values and bool(
        _read(values["stream"], _FLAG, "stream", "true, false or null")
    )
    options = None
    if "stream_options" in values:
        options = _read(
            values["stream_options"], _OPTIONS, "stream_options", "an object of true or false"
        )
    options = options or _NO_OPTIONS
    bound = _count(members, "max_completion_tokens", minimum=0)
    if bound is None:
        bound = _count(members, "max_tokens", minimum=0)
    return InferenceRequest(
        route=route,
        model=model,
        stream=stream and route.generates,
        max_tokens=bound,
        choices=_count(members, "n", minimum=1) or 1,
        wants_usage=stream and bool(options.include_usage),
        wants_continuous=stream
        and bool(options.include_usage)
        and bool(options.continuous_usage_stats),
        members=members,
    )


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


def _count(members: Members, name: str, *, minimum: int) -> int | None:
    if name not in members.values:
        return None
    count = _read(members.values[name], _COUNT, name, "a whole number")
    if count is not None and count < minimum:
        raise InvalidInput(f"Must be at least {minimum}.", field=name)
    return count


def _read(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[_Value], field: str, expected: str
) -> _Value:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput(f"Must be {expected}.", field=field) from None


def _nameable(name: str) -> str | None:
    """A member's name if it is one that is safe to repeat."""
    return name if len(name) <= 64 and name.isidentifier() and name.isascii() else None
