"""What a client asks for, read from its body.

Decides: which members metering reads, and that their types are right. Does not judge prompts or
sampling values: those pass through unread, and the engine answers for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from billing.admission.route import BodyForm, Route
from billing.engines.audio_request import most_milliseconds, read_audio
from billing.engines.image_request import require_whole_images, spoken_characters
from billing.engines.member_values import count, decoded, flag, required_text, text
from billing.engines.messages_request import require_message
from billing.engines.multipart import Form
from billing.engines.nested_members import file_ids
from billing.engines.rerank_request import most_searches
from billing.engines.responses_request import StoredReferences, read_references
from billing.engines.splice import Members, locate
from billing.metering.request_event import ServiceTier, asked_tier
from billing.metering.unit_meter import UnitMeter

JSON_TYPE = b"application/json"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class RunIds(NamedTuple):
    """Ids of the agent's run, of its step and of the agent; '' for none."""

    run: str = ""
    step: str = ""
    agent: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    run_id: str = ""
    step_id: str = ""
    agent_id: str = ""


_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)
_NO_OPTIONS = _StreamOptions()
_METADATA = msgspec.json.Decoder(_Metadata)
_PROMPTS = msgspec.json.Decoder(list[msgspec.Raw])
NO_RUN = RunIds()
_NO_UNITS: Mapping[UnitMeter, int] = MappingProxyType({})
_NO_REFERENCES = StoredReferences(previous_response_id=None, file_ids=(), store=None)

PROMPT_MEMBERS = (
    "messages",
    "prompt",
    "input",
    "system",
    "instructions",
    "tools",
    "functions",
    "documents",
    "query",
)
"""Members that make the prompt."""

_MEDIA = tuple(
    b'"%b"' % name
    for name in (
        b"image_url",
        b"input_image",
        b"image",
        b"input_audio",
        b"audio_url",
        b"video_url",
        b"document",
        b"file",
        b"input_file",
    )
)
_OUTPUT_MEMBERS = {
    Route.CHAT_COMPLETIONS: ("max_completion_tokens", "max_tokens"),
    Route.COMPLETIONS: ("max_tokens",),
    Route.RESPONSES: ("max_output_tokens",),
    Route.MESSAGES: ("max_tokens",),
}


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a request that metering reads.

    A Struct, because one is made for every request: a frozen dataclass costs five times as much.

    Attributes:
        model: as the client names it.
        max_tokens: the client's bound on generated tokens per choice, if it set one.
        choices: how many answers are generated (`n`).
        wants_usage: the client asked a stream for its usage.
        wants_continuous: it also asked for counts on every chunk.
        members: the body, located; without members where it is a form.
        form: the body where it is a form.
        content_type: of the body, as the backend gets it.
        references: what it says of objects that a backend keeps.
        run: ids in its `metadata`, unchecked.
        most_units: what its answer can be charged for beside tokens, at most.
        best_of: how many answers are generated for every one that is given.
        service_tier: the one that it asks for; '' for the default.
    """

    route: Route
    model: str
    stream: bool
    max_tokens: int | None
    choices: int
    wants_usage: bool
    wants_continuous: bool
    members: Members
    form: Form | None = None
    content_type: bytes = JSON_TYPE
    references: StoredReferences = _NO_REFERENCES
    run: RunIds = NO_RUN
    most_units: Mapping[UnitMeter, int] = _NO_UNITS
    best_of: int = 1
    service_tier: str = ""

    @property
    def characters(self) -> int:
        """Unicode code points that are to be spoken."""
        return self.most_units.get(UnitMeter.CHARACTERS, 0)

    @property
    def output_member(self) -> str | None:
        """The member that bounds generated tokens, as the route documents it."""
        names = _OUTPUT_MEMBERS.get(self.route)
        return None if names is None else names[0]

    @property
    def prompts(self) -> int:
        """How many prompts it has: each of a list of texts or of lists gets its own answers."""
        raw = self.members.values.get("prompt")
        if raw is None or not bytes(raw).startswith(b"["):
            return 1
        try:
            prompts = _PROMPTS.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return 1
        single = not prompts or bytes(prompts[0])[:1] not in (b'"', b"[")
        return 1 if single else len(prompts)

    @property
    def echoes(self) -> bool:
        """Whether its answers begin with the prompt."""
        return bytes(self.members.values.get("echo", b"")) == b"true"

    @property
    def tier_word(self) -> str:
        """The service tier that it asks for, in its own word; '' for none."""
        return text(self.members, "service_tier") or ""

    @property
    def prompt_bytes(self) -> int:
        """Bytes of JSON that make the prompt: never fewer than its tokens, media apart."""
        if self.form is not None:
            prompt = self.form.part("prompt")
            return 0 if prompt is None else prompt.end - prompt.start
        spans = self.members.spans
        return sum(spans[name].end - spans[name].value for name in PROMPT_MEMBERS if name in spans)

    @property
    def media_parts(self) -> int:
        """At most how many images, sounds and files the prompt has: names of such members.

        In text their quotes are escaped, so that prose does not count.
        """
        if self.form is not None:
            return 0
        body = self.members.body
        return sum(body.count(name) for name in _MEDIA)


def read_request(body: bytes, route: Route, content_type: bytes = JSON_TYPE) -> InferenceRequest:
    """Read a body once.

    Args:
        content_type: value of the header; it matters where the route takes a form.

    Raises:
        InvalidInput: not what the route takes, a repeated member, or a member of the wrong type;
            its field is named, its value never repeated.
        NotFound: it refers to an item that belongs to nobody.
    """
    if route.spec.body is BodyForm.MULTIPART:
        return _read_form(body, route, content_type)
    members = locate(body)
    model = required_text(members, "model")
    stream = "stream" in members.values and bool(flag(members, "stream"))
    options = _NO_OPTIONS
    raw = members.values.get("stream_options")
    if raw is not None:
        options = decoded(raw, _OPTIONS, "stream_options", "an object of true or false")
        options = options or _NO_OPTIONS
    wants_usage = stream and bool(options.include_usage)
    return InferenceRequest(
        route=route,
        model=model,
        stream=stream and route.generates,
        max_tokens=_output_bound(members, route),
        choices=_choices(members, "n"),
        wants_usage=wants_usage,
        wants_continuous=wants_usage and bool(options.continuous_usage_stats),
        members=members,
        references=_references(members, route),
        run=_run_ids(members) if "metadata" in members.values else NO_RUN,
        most_units=_most_units(members, route),
        best_of=_choices(members, "best_of"),
        service_tier=_tier(members) if "service_tier" in members.values else "",
    )


def _choices(members: Members, name: str) -> int:
    return count(members, name, minimum=1) or 1 if name in members.values else 1


def _tier(members: Members) -> str:
    asked = asked_tier(text(members, "service_tier") or "")
    return "" if asked is ServiceTier.DEFAULT else asked.value


def _output_bound(members: Members, route: Route) -> int | None:
    for name in _OUTPUT_MEMBERS.get(route, ()):
        if name in members.values:
            bound = count(members, name, minimum=0)
            if bound is not None:
                return bound
    return None


def _references(members: Members, route: Route) -> StoredReferences:
    match route:
        case Route.RESPONSES:
            return read_references(members)
        case Route.MESSAGES | Route.COUNT_TOKENS:
            require_message(members, generates=route is Route.MESSAGES)
            found = file_ids(members, ("messages", "system"))
        case Route.CHAT_COMPLETIONS:
            found = file_ids(members, ("messages",))
        case _:
            return _NO_REFERENCES
    if not found:
        return _NO_REFERENCES
    return StoredReferences(previous_response_id=None, file_ids=found, store=None)


def _most_units(members: Members, route: Route) -> Mapping[UnitMeter, int]:
    match route:
        case Route.IMAGES:
            require_whole_images(members)
            return {UnitMeter.IMAGES: count(members, "n", minimum=1) or 1}
        case Route.SPEECH:
            return {UnitMeter.CHARACTERS: spoken_characters(members)}
        case Route.RERANK:
            return {UnitMeter.SEARCHES: most_searches(members)}
        case _:
            return _NO_UNITS


def _run_ids(members: Members) -> RunIds:
    """Ids in the metadata; metadata of another form is the engine's to judge."""
    try:
        found = _METADATA.decode(members.values["metadata"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NO_RUN
    return RunIds(found.run_id, found.step_id, found.agent_id)


def _read_form(body: bytes, route: Route, content_type: bytes) -> InferenceRequest:
    audio = read_audio(body, content_type)
    return InferenceRequest(
        route=route,
        model=audio.model,
        stream=False,
        max_tokens=None,
        choices=1,
        wants_usage=False,
        wants_continuous=False,
        members=Members(body, {}, {}),
        form=audio.form,
        content_type=content_type,
        most_units={UnitMeter.AUDIO_MS: most_milliseconds(audio.sound_bytes)},
    )
