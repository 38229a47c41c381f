"""Answers that are not streams, read for what they cost.

Decides: where each route's answers say their usage, and what they are charged for where they say
none. An answer without usage that can be trusted is a lower bound, flagged; tokens are never made
up. A stream of events that calls itself JSON is read as the stream that it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from types import MappingProxyType
from typing import Any, TypeVar, assert_never

import msgspec
from msgspec import Raw
from msgspec.structs import astuple, replace

from billing.admission.route import Dialect, Route
from billing.engines.answer_usage import tier_named, usage_and_tier_of, usage_of
from billing.engines.capabilities import Capabilities
from billing.engines.mark import Ending
from billing.engines.odd_json import read_odd
from billing.engines.read_request import InferenceRequest
from billing.engines.reading import stream_reading
from billing.engines.usage import (
    OF_CHUNKS,
    OF_MESSAGES,
    OF_RERANK,
    OF_RESPONSES,
    Figures,
    Names,
    raw_figures,
    read_figures,
    read_named_figures,
    usual_figures,
)
from billing.metering.token_class import TokenCounts
from billing.metering.unit_meter import UnitMeter

MAX_SEARCHES = 1 << 31
_EVENTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?::[^\r\n]*[\r\n]\s*)*+(?:data|event|id|retry):")
_OBJECT = b"{"
_SECONDS = re.compile(rb'"?([0-9]{1,9}(?:\.[0-9]{1,18})?)"?\Z')
_NO_TOKENS = TokenCounts()
_NO_UNITS: Mapping[UnitMeter, int] = MappingProxyType({})


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer costs.

    Attributes:
        units: what it carries beside tokens, in whole numbers (audio in ms).
        raw: the engine's own figures by dotted path.
        exact: the engine gave every figure that the route is charged for.
        anomalies: what was wrong with them, as stable words.
        object_ids: ids that a client could send back.
        shown: what the client gets, where that is not the body as it is.
        refused: it is nothing but an error, whatever its status says.
        tier: the service tier that it names; '' for none, or of an engine that does not answer it.
    """

    counts: TokenCounts = _NO_TOKENS
    units: Mapping[UnitMeter, int] = _NO_UNITS
    raw: dict[str, int] = {}
    exact: bool = False
    anomalies: tuple[str, ...] = ()
    object_ids: tuple[str, ...] = ()
    shown: bytes | None = None
    refused: bool = False
    tier: str = ""


class _Response(msgspec.Struct, frozen=True):
    id: Any = None
    usage: Raw = Raw(b"")
    service_tier: Raw = Raw(b"")


class _Refusal(msgspec.Struct, frozen=True):
    """What an error has, and what an answer has that an error lacks."""

    error: Raw = Raw(b"")
    id: Raw = Raw(b"")
    choices: Raw = Raw(b"")
    usage: Raw = Raw(b"")
    data: Raw = Raw(b"")
    results: Raw = Raw(b"")
    text: Raw = Raw(b"")


class _Ranking(msgspec.Struct, frozen=True):
    usage: Raw = Raw(b"")
    meta: Raw = Raw(b"")


class _Meta(msgspec.Struct, frozen=True):
    billed_units: Raw = Raw(b"")
    tokens: Raw = Raw(b"")


class _Billed(msgspec.Struct, frozen=True):
    search_units: Any = None


class _Transcript(msgspec.Struct, frozen=True):
    usage: Raw = Raw(b"")
    duration: Raw = Raw(b"")


class _AudioUsage(msgspec.Struct, frozen=True):
    type: Any = None
    seconds: Raw = Raw(b"")


class _Pictures(msgspec.Struct, frozen=True):
    data: list[Raw] | None = None
    usage: Raw = Raw(b"")


_RESPONSE = msgspec.json.Decoder(_Response)
_REFUSAL = msgspec.json.Decoder(_Refusal)
_RANKING = msgspec.json.Decoder(_Ranking)
_META = msgspec.json.Decoder(_Meta)
_BILLED = msgspec.json.Decoder(_Billed)
_TRANSCRIPT = msgspec.json.Decoder(_Transcript)
_AUDIO = msgspec.json.Decoder(_AudioUsage)
_PICTURES = msgspec.json.Decoder(_Pictures)
_NOTHING_SAID = frozenset({b"", b"null"})
_NOTHING_IN_IT = frozenset({b"", b"null", b'""', b"{}", b"[]", b"false", b"0"})
_Shape = TypeVar("_Shape")
_Other = TypeVar("_Other")


def read_whole(
    body: bytes,
    *,
    route: Route,
    engine: Capabilities,
    request: InferenceRequest,
    prompt_floor: int,
) -> Reading:
    """Read a complete answer.

    Args:
        prompt_floor: tokens that the prompt has at least; see `stream_reading`.
    """
    reading = _read(body, route, engine, request, prompt_floor)
    # What the engine counted is no error; of speech it counts nothing.
    if (not reading.exact or route is Route.SPEECH) and _is_refusal(body):
        return Reading(refused=True)
    return reading


def _read(
    body: bytes, route: Route, engine: Capabilities, request: InferenceRequest, prompt_floor: int
) -> Reading:
    dialect = route.spec.dialect
    match dialect:
        case Dialect.CHUNKS | Dialect.RESPONSES | Dialect.MESSAGES:
            if not body.startswith(_OBJECT) and _EVENTS.match(body):
                return _read_events(body, route, engine, request, prompt_floor)
            tiered = engine.answers_tier
            if dialect is Dialect.RESPONSES:
                return _read_response(body, tiered=tiered)
            if dialect is Dialect.MESSAGES:
                return _tokens(usage_of(body), OF_MESSAGES, generates=True, tiered=tiered)
            usual = usual_figures(body, tiered=tiered)
            if usual is not None:
                return _said(*usual)
            usage, tier = usage_and_tier_of(body) if tiered else (usage_of(body), "")
            return _with_tier(_tokens(usage, OF_CHUNKS, generates=True), tier)
        case Dialect.PLAIN:
            return _read_plain(body, route, request)
        case _:
            assert_never(dialect)


def _is_refusal(body: bytes) -> bool:
    """Gateways before an engine send its errors on with status 200."""
    if not body.startswith(_OBJECT):
        return False
    answer = _decoded(_REFUSAL, body, _Refusal())
    error, *others = (bytes(member) for member in astuple(answer))
    return error not in _NOTHING_IN_IT and _NOTHING_IN_IT.issuperset(others)


def _read_events(
    body: bytes, route: Route, engine: Capabilities, request: InferenceRequest, prompt_floor: int
) -> Reading:
    """A stream of events whose head does not say so."""
    stream = stream_reading(route, engine, request, prompt_floor=prompt_floor)
    shown = stream.feed(body) + stream.finish() + stream.held()
    exact = stream.exact and stream.ending is not Ending.ERROR
    return Reading(
        counts=stream.mark.counts(),
        raw=stream.raw(),
        exact=exact,
        anomalies=(*sorted(stream.anomalies), *(() if exact else ("usage_missing",))),
        object_ids=tuple(stream.object_ids),
        shown=shown if request.stream else None,
        tier=stream.tier,
    )


def _with_tier(reading: Reading, tier: str) -> Reading:
    return replace(reading, tier=tier) if tier else reading


def _read_response(body: bytes, *, tiered: bool) -> Reading:
    """A response, whatever became of it, with the id that it can be asked for by."""
    answer = _decoded(_RESPONSE, body, _Response())
    object_ids = (answer.id,) if isinstance(answer.id, str) and answer.id else ()
    reading = replace(_tokens(answer.usage, OF_RESPONSES, generates=True), object_ids=object_ids)
    return _with_tier(reading, tier_named(answer.service_tier)) if tiered else reading


def _tokens(
    usage: Raw | None,
    names: Names,
    *,
    generates: bool,
    units: Mapping[UnitMeter, int] = _NO_UNITS,
    tiered: bool = False,
) -> Reading:
    """A usage object of tokens."""
    if usage is None or bytes(usage) in _NOTHING_SAID:
        return Reading(units=units, anomalies=("usage_missing",))
    if names is OF_CHUNKS:
        figures = read_figures(usage, generates=generates)
    else:
        figures = read_named_figures(usage, names, generates=generates, tiered=tiered)
    if figures is None:
        return Reading(units=units, anomalies=("usage_unreadable",))
    return _said(figures, raw_figures(usage), units)


def _said(
    figures: Figures, raw: dict[str, int], units: Mapping[UnitMeter, int] = _NO_UNITS
) -> Reading:
    zero = not figures.prompt and not figures.completion and not units
    return Reading(
        counts=figures.counts(),
        units=units,
        raw=raw,
        exact=figures.complete,
        anomalies=(*figures.anomalies, "usage_zero") if zero else figures.anomalies,
        tier=figures.tier,
    )


def _read_plain(body: bytes, route: Route, request: InferenceRequest) -> Reading:
    """Answers of routes that have a shape of their own."""
    match route:
        case Route.EMBEDDINGS:
            return _tokens(usage_of(body), OF_CHUNKS, generates=False)
        case Route.RERANK:
            return _read_ranking(body)
        case Route.TRANSCRIPTIONS | Route.TRANSLATIONS:
            return _read_transcript(body)
        case Route.SPEECH:
            # The engine says nothing: what is charged for is the text that was asked for.
            return Reading(units={UnitMeter.CHARACTERS: request.characters}, exact=True)
        case _:
            return _read_pictures(body)


def _read_ranking(body: bytes) -> Reading:
    """Tokens from `usage` or, as Cohere says them, from `meta`; vLLM had both in turn.

    A request is one search, unless the engine says how many.
    """
    answer = _decoded(_RANKING, body, _Ranking())
    meta = _decoded(_META, answer.meta, _Meta())
    said = _decoded(_BILLED, meta.billed_units, _Billed()).search_units
    searches = said if isinstance(said, int) and 0 < said <= MAX_SEARCHES else 1
    units = {UnitMeter.SEARCHES: searches}
    missing = "usage_missing"
    for usage in (answer.usage, meta.billed_units, meta.tokens):
        reading = _tokens(usage, OF_RERANK, generates=False)
        if reading.exact:
            return replace(reading, units=units)
        if "usage_unreadable" in reading.anomalies:
            missing = "usage_unreadable"
    if isinstance(said, int):
        return Reading(units=units, raw=raw_figures(meta.billed_units), exact=True)
    return Reading(units=units, anomalies=(missing,))


def _read_transcript(body: bytes) -> Reading:
    """The length of the sound, or tokens; plain text and subtitles say neither."""
    answer = _decoded(_TRANSCRIPT, body, _Transcript())
    usage = _decoded(_AUDIO, answer.usage, _AudioUsage())
    if usage.type == "duration" or bytes(usage.seconds) not in _NOTHING_SAID:
        length_ms = _milliseconds(usage.seconds)
    elif bytes(answer.usage) in _NOTHING_SAID:
        length_ms = _milliseconds(answer.duration)
        if length_ms is None:
            return Reading(anomalies=("usage_missing",))
    else:
        return _tokens(answer.usage, OF_RESPONSES, generates=True)
    if length_ms is None:
        return Reading(anomalies=("usage_unreadable",))
    zero = () if length_ms else ("usage_zero",)
    return Reading(units={UnitMeter.AUDIO_MS: length_ms}, exact=True, anomalies=zero)


def _milliseconds(seconds: Raw) -> int | None:
    """Seconds, a JSON number or its text, as whole milliseconds, rounded up."""
    match = _SECONDS.match(bytes(seconds))
    if match is None:
        return None
    exact = Decimal(match[1].decode()) * 1000
    return int(exact.to_integral_value(ROUND_CEILING))


def _read_pictures(body: bytes) -> Reading:
    """Pictures are counted in the answer; newer models say tokens besides."""
    answer = _decoded(_PICTURES, body, None)
    if answer is None or answer.data is None:
        return Reading(anomalies=("usage_missing",))
    units = {UnitMeter.IMAGES: len(answer.data)}
    if bytes(answer.usage) in _NOTHING_SAID:
        return Reading(units=units, exact=True)
    return _tokens(answer.usage, OF_RESPONSES, generates=True, units=units)


def _decoded(
    decoder: msgspec.json.Decoder[_Shape], text: bytes | Raw, otherwise: _Other
) -> _Shape | _Other:
    found = read_odd(decoder, text)
    return otherwise if found is None else found
