"""Server-sent events out of a byte stream, and what each event of a completion stream is.

Decides: where an event ends, and whether it carries content, usage, both, an error or the end
mark. Does not change a byte, except to cut a `usage` member that nobody but the meter asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from billing.engines.answer_usage import with_timings
from billing.engines.odd_json import read_odd
from billing.engines.splice import locate, without_member
from billing.errors import InvalidInput, UpstreamUnavailable

MAX_EVENT_BYTES = 8 << 20

# Two line ends, from the last byte of the first on. A line may end with a carriage return alone;
# whether it does shows with the next byte only.
_END_OF_EVENT = re.compile(rb"[\n\r](?:(?<=\n)\n|\r(?:\n|(?=[^\n])))")
_LOOK_BACK = 2  # how much of an end, with the byte that shows it, may have come before
_JOINED_BYTES = 1024  # what is sooner copied than looked after


class EventSplitter:
    """Cuts a byte stream into events; every event keeps its own bytes and blank line.

    The concatenation of everything returned is the input. An event of many reads costs what its
    bytes cost, not their square: its end is looked for in what is new.

    Attributes:
        rest: an event whose end has not come yet.
    """

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest: bytes | bytearray = b""

    def feed(self, received: bytes) -> list[bytes]:
        """The events that are complete now.

        Raises:
            UpstreamUnavailable: an event grew past MAX_EVENT_BYTES without an end.
        """
        if self.rest:
            if len(self.rest) > _JOINED_BYTES and not self._ends_in(received):
                self._keep(received)
                return []
            received = bytes(self.rest) + received
        if b"\r" in received:
            events: list[bytes] = []
            start = 0
            for end in _END_OF_EVENT.finditer(received):
                events.append(received[start : end.end()])
                start = end.end()
            self.rest = received[start:]
        else:
            parts = received.split(b"\n\n")
            self.rest = parts.pop()
            events = [part + b"\n\n" for part in parts]
        _require_bounded(self.rest)
        return events

    def _ends_in(self, received: bytes) -> bool:
        text = bytes(self.rest[-_LOOK_BACK:]) + received
        return b"\n\n" in text or (b"\r" in text and _END_OF_EVENT.search(text) is not None)

    def _keep(self, received: bytes) -> None:
        """Add to an event that goes on, without copying what came before."""
        if isinstance(self.rest, bytes):
            self.rest = bytearray(self.rest)
        self.rest += received
        _require_bounded(self.rest)

    def finish(self) -> bytes:
        """What is left when the stream has ended: an event without its blank line, or nothing."""
        rest, self.rest = bytes(self.rest), b""
        return rest


def _require_bounded(rest: bytes | bytearray) -> None:
    if len(rest) > MAX_EVENT_BYTES:
        raise UpstreamUnavailable("The inference backend sent an event without an end.")


class EventKind(Enum):
    """What an event of a completion stream carries."""

    CONTENT = auto()
    """Choices, and no usage."""
    MIXED = auto()
    """Choices and usage: continuous counts, or usage on the last chunk."""
    USAGE_ONLY = auto()
    """Usage, and no choices."""
    ERROR = auto()
    DONE = auto()
    OTHER = auto()
    """A comment, a named event or something that is not a chunk: passed, not metered."""


class _Delta(msgspec.Struct, frozen=True):
    content: Raw = Raw(b"")
    reasoning_content: Raw = Raw(b"")
    reasoning: Raw = Raw(b"")
    refusal: Raw = Raw(b"")
    audio: Raw = Raw(b"")
    tool_calls: Raw = Raw(b"")
    function_call: Raw = Raw(b"")


class _Choice(msgspec.Struct, frozen=True):
    index: int = 0
    finish_reason: str | None = None
    delta: _Delta | None = None
    text: Raw = Raw(b"")


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    timings: Raw | UnsetType = UNSET
    service_tier: Raw = Raw(b"")


class _Step(msgspec.Struct, frozen=True, gc=False):
    index: int = 0
    finish_reason: str | None = None


class _Progress(msgspec.Struct, frozen=True):
    """A chunk of which only the progress matters, its usage being known."""

    choices: list[_Step] | None = None
    error: Raw | UnsetType = UNSET
    timings: Raw | UnsetType = UNSET
    service_tier: Raw = Raw(b"")


_CHUNK = msgspec.json.Decoder(_Chunk)
_PROGRESS = msgspec.json.Decoder(_Progress)
_ONE_VALUE = msgspec.json.Decoder(Raw)
_ANY = msgspec.json.Decoder()
_USAGE_KEY = b'"usage"'
_LAST_USAGE = b',"usage":{'
_EMPTY = frozenset({b"", b"null", b'""', b"[]", b"{}"})
_NO_ERROR = _EMPTY | {b"false", b"0"}
_END_MARK = b"[DONE]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_INDEX_DIGITS = 10


@dataclass(slots=True)
class Event:
    """One event, read.

    Attributes:
        text: its bytes with the blank line.
        usage: JSON text of its usage object; None where absent or null.
        cut: offset of a `usage` member that ends the object of an event in the plain form, else 0.
        usage_member: the member is there, be it null.
        index: of its first choice.
        finished: a choice of it has a finish_reason; some engines say none as empty text.
        has_content: a choice of it carries generated text, reasoning or a tool call; not looked
            for where usage says it better.
        tier: JSON text of its service tier; empty where absent.
    """

    kind: EventKind
    text: bytes
    usage: bytes | Raw | None = None
    usage_member: bool = False
    cut: int = 0
    index: int = 0
    finished: bool = False
    has_content: bool = False
    tier: bytes | Raw = b""


def read_event(text: bytes) -> Event:
    """Say what an event is. Unreadable ones are OTHER: they pass, and count for nothing."""
    if text.endswith(b"}}\n\n") and text.startswith(b"data: {"):
        event = _read_plain(text)
        if event is not None:
            return event
    return _read_any(text)


def carries_content(event: Event) -> bool:
    """As `Event.has_content`, and looked for where it was not."""
    return _read_any(event.text).has_content if event.cut else event.has_content


def ends_stream(payload: bytes) -> bool:
    """Whether it is the end mark, as clients look for it: they do not mind what stands behind."""
    return payload.startswith(_END_MARK)


def _read_any(text: bytes) -> Event:
    payload = payload_of(text)
    if not payload:
        return Event(EventKind.OTHER, text)
    if ends_stream(payload):
        return Event(EventKind.DONE, text)
    try:
        chunk = _CHUNK.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        chunk = _odd_chunk(payload)
    if chunk is None:
        # Some engines put an exception's text into the error event without escaping it.
        broken = payload.startswith((b'{"error"', b'{ "error"'))
        return Event(EventKind.ERROR if broken else EventKind.OTHER, text)
    if chunk.error is not UNSET and bytes(chunk.error) not in _NO_ERROR:
        return Event(EventKind.ERROR, text)
    member = chunk.usage is not UNSET
    usage = None
    if chunk.usage is not UNSET and bytes(chunk.usage) != b"null":
        usage = with_timings(chunk.usage, chunk.timings)
    if not chunk.choices:
        if usage is None:
            return Event(EventKind.OTHER, text, usage_member=member)
        return Event(EventKind.USAGE_ONLY, text, usage, usage_member=True, tier=chunk.service_tier)
    return Event(
        kind=EventKind.CONTENT if usage is None else EventKind.MIXED,
        text=text,
        usage=usage,
        usage_member=member,
        index=chunk.choices[0].index,
        finished=any(choice.finish_reason for choice in chunk.choices),
        has_content=any(_has_content(choice) for choice in chunk.choices),
        tier=chunk.service_tier,
    )


def _read_plain(text: bytes) -> Event | None:
    """Read the form in which engines send continuous counts: one line, `usage` its last member.

    None where it is anything else. Such an event comes for every token of every stream, so its
    first half is decoded once, and nothing is built that nobody reads. The key stands in the text
    once, after a comma, and one object follows up to the closing brace: so it is a member of the
    outermost object, and its last (where llama.cpp has `timings` too, they say more of it).
    """
    at = text.rfind(_LAST_USAGE)
    if at < 0 or text.find(_USAGE_KEY) != at + 1:
        return None
    usage = text[at + len(_LAST_USAGE) - 1 : -3]
    try:
        chunk = _PROGRESS.decode(text[6:at] + b"}")
        _ONE_VALUE.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if chunk.error is not UNSET or chunk.timings is not UNSET:
        return None
    choices = chunk.choices
    if not choices:
        return Event(EventKind.USAGE_ONLY, text, usage, True, at, tier=chunk.service_tier)
    finished = False
    for choice in choices:
        finished = finished or bool(choice.finish_reason)
    index, tier = choices[0].index, chunk.service_tier
    return Event(EventKind.MIXED, text, usage, True, at, index, finished, tier=tier)


def _odd_chunk(payload: bytes) -> _Chunk | None:
    """A chunk with members of other types than most engines give them; None if it is none."""
    tree = read_odd(_ANY, payload)
    if not isinstance(tree, dict):
        return None
    members = cast("dict[str, Any]", tree)
    choices = members.get("choices")
    if isinstance(choices, list):
        members["choices"] = [_usual_choice(choice) for choice in cast("list[Any]", choices)]
    return read_odd(_CHUNK, msgspec.json.encode(members))


def _usual_choice(choice: Any) -> dict[str, Any]:
    if not isinstance(choice, dict):
        return {}
    usual = dict(cast("dict[str, Any]", choice))
    index, finish = str(usual.get("index")), usual.get("finish_reason")
    usual["index"] = int(index) if index.isdecimal() and len(index) < _INDEX_DIGITS else 0
    usual["finish_reason"] = str(finish) if finish else None
    if not isinstance(usual.get("delta"), dict):
        usual["delta"] = None
    return usual


def _has_content(choice: _Choice) -> bool:
    if bytes(choice.text) not in _EMPTY:
        return True
    delta = choice.delta
    if delta is None:
        return False
    return (
        bytes(delta.content) not in _EMPTY
        or bytes(delta.reasoning_content) not in _EMPTY
        or bytes(delta.tool_calls) not in _EMPTY
        or bytes(delta.reasoning) not in _EMPTY
        or bytes(delta.refusal) not in _EMPTY
        or bytes(delta.audio) not in _EMPTY
        or bytes(delta.function_call) not in _EMPTY
    )


def payload_of(text: bytes) -> bytes:
    """The joined `data` lines of an event, without line ends; empty if it has none."""
    if text.startswith(b"data: ") and text.endswith(b"\n\n") and text.count(b"\n") == 2:
        return text[6:-2].rstrip(b"\r")
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in text.removeprefix(_BYTE_ORDER_MARK).splitlines()
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines)


def without_usage(event: Event) -> bytes:
    """The event's bytes with its top-level `usage` member cut out and every other byte kept."""
    if not event.usage_member:
        return event.text
    if event.cut:
        return event.text[: event.cut] + event.text[-3:]
    payload = payload_of(event.text)
    tail = b',"usage":' + (bytes(event.usage) if event.usage is not None else b"null") + b"}"
    if payload.endswith(tail):
        # The last brace closes the object, so this is its own last member, not a nested one.
        cut = payload[: -len(tail)] + b"}"
    else:
        try:
            cut = without_member(locate(payload), "usage")
        except InvalidInput:
            return event.text
    before, found, after = event.text.partition(payload)
    return before + cut + after if found else _with_data(event.text, cut)


def _with_data(text: bytes, payload: bytes) -> bytes:
    """An event of several data lines with another payload, which has lines too."""
    lines = [line for line in text.splitlines() if line and not line.startswith(b"data:")]
    lines += [b"data: " + line for line in payload.splitlines()]
    return b"\n".join(lines) + b"\n\n"
