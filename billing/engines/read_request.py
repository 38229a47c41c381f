"""What a client asks for, read from its body.

Decides: which members metering reads, and that their types are right. Does not judge prompts or
sampling values: those pass through unread, and the engine answers for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from billing.admission.route import Route
from billing.engines.splice import Members, locate
from billing.errors import InvalidInput

_Value = TypeVar("_Value")

_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool | None)
_COUNT = msgspec.json.Decoder(int | None)


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
