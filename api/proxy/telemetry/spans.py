"""The spans of one request, as OTLP's JSON.

Decides: one span of the request (SERVER) and one of each attempt (CLIENT), with which attributes.
No attribute carries text of a prompt, of an answer or of an engine's error, nor a key: names of
routes, models, backends and error codes, numbers, and the ids that the client gave its run.

They are written from times that were measured anyway, once the request is over. OpenTelemetry's
own span objects cost more than the request itself (see `billing/README.md`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import msgspec

from api.proxy.ids import shown
from api.proxy.telemetry import conventions as names
from api.proxy.telemetry.course import INTER_TOKEN, OVERHEAD, QUEUE
from api.proxy.telemetry.trace_context import Place, Trace, attempt_id
from billing.engines.read_request import RunIds
from billing.journal.records import Usage

SERVER: Final = 2
CLIENT: Final = 3
_ERROR: Final = b'"status":{"code":2},'
_MICROSECONDS: Final = 1_000_000
_CACHED: Final = 1024


class TracedAttempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt; `error` is empty where it served the answer."""

    model: str
    backend: str
    engine: str
    base_url: str
    began_at_us: int
    duration_us: int
    error: str


class TracedRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a request until its spans are exported; nothing in it is the body's.

    Attributes:
        route: its path.
        model, served: asked for and answering; empty where it was refused before that was known.
        error: empty where nothing went wrong; `failed` if that was not the client's doing.
        told: its usage event; None where nothing was billed.
    """

    trace: Trace
    began_at_us: int
    duration_us: int
    route: str
    model: str = ""
    served: str = ""
    stream: bool = False
    status: int
    error: str
    failed: bool
    told: Usage | None = None
    run: RunIds | None = None
    attempts: tuple[TracedAttempt, ...] = ()


def text(key: str, value: str) -> bytes:
    """An attribute."""
    return b'{"key":"%b","value":{"stringValue":%b}}' % (key.encode(), msgspec.json.encode(value))


def whole(key: str, value: int) -> bytes:
    """An attribute; OTLP writes 64 bits as text."""
    return b'{"key":"%b","value":{"intValue":"%d"}}' % (key.encode(), value)


def truth(key: str, *, value: bool) -> bytes:
    """An attribute."""
    return b'{"key":"%b","value":{"boolValue":%b}}' % (key.encode(), b"true" if value else b"false")


def _slot(key: str) -> bytes:
    """An attribute whose number is put in later."""
    return b'{"key":"%b","value":{"intValue":"%%d"}}' % key.encode()


def seconds(key: str, duration_us: int) -> bytes:
    """An attribute."""
    return b'{"key":"%b","value":{"doubleValue":%b}}' % (key.encode(), in_seconds(duration_us))


def in_seconds(duration_us: int) -> bytes:
    """Exact, as a JSON number."""
    return b"%d.%06d" % divmod(duration_us, _MICROSECONDS)


_TOLD: Final = b",".join(
    map(_slot, (names.INPUT_TOKENS, names.OUTPUT_TOKENS, QUEUE, INTER_TOKEN, OVERHEAD))
)
_ID: Final = text(names.REQUEST_ID, "%b")
_STATUS: Final = _slot(names.STATUS)


def spans_of(request: TracedRequest) -> bytes:
    """Its spans, with commas between them."""
    place = request.trace.place
    spans = [_request_span(request, place)]
    for ordinal, attempt in enumerate(request.attempts):
        spans.append(_attempt_span(request, place, ordinal, attempt))
    return b",".join(spans)


def _request_span(request: TracedRequest, place: Place) -> bytes:
    attributes = [
        _of_route(request.route, request.model, request.served, request.stream),
        _ID % shown(request.trace.operation_id),
    ]
    if request.status:
        attributes.append(_STATUS % request.status)
    if request.error:
        attributes.append(text(names.ERROR_TYPE, request.error))
    if request.told is not None:
        attributes += _of_usage(request.told, stream=request.stream)
    if request.run:
        attributes += _of_run(request.run)
    return span(
        place,
        (place.span_id, place.parent_id, SERVER),
        _name(request.route, request.model),
        (request.began_at_us, request.duration_us),
        attributes,
        failed=request.failed,
    )


def _attempt_span(
    request: TracedRequest, place: Place, ordinal: int, attempt: TracedAttempt
) -> bytes:
    attributes = [
        _of_backend(request.route, attempt.model, attempt.backend, attempt.engine, attempt.base_url)
    ]
    if attempt.error:
        attributes.append(text(names.ERROR_TYPE, attempt.error))
    return span(
        place,
        (attempt_id(place.span_id, ordinal), b"%016x" % place.span_id, CLIENT),
        _name(request.route, attempt.model),
        (attempt.began_at_us, attempt.duration_us),
        attributes,
        failed=bool(attempt.error),
    )


def span(
    place: Place,
    ids: tuple[int, bytes, int],
    name: bytes,
    time_us: tuple[int, int],
    attributes: Iterable[bytes],
    *,
    failed: bool,
) -> bytes:
    """One span; `ids` is its id, its parent's and its kind, `time_us` beginning and duration."""
    (span_id, parent_id, kind), (began_at_us, duration_us) = ids, time_us
    return (
        b'{"traceId":"%b","spanId":"%016x","parentSpanId":"%b","traceState":%b,"flags":%d,'
        b'"name":%b,"kind":%d,"startTimeUnixNano":"%d","endTimeUnixNano":"%d",%b"attributes":[%b]}'
    ) % (
        place.trace_id,
        span_id,
        parent_id,
        msgspec.json.encode(place.state.decode("ascii")) if place.state else b'""',
        place.flags,
        name,
        kind,
        began_at_us * 1000,
        (began_at_us + duration_us) * 1000,
        _ERROR if failed else b"",
        b",".join(attributes),
    )


def _of_usage(told: Usage, *, stream: bool) -> list[bytes]:
    """What it cost: the counts that it is billed for, and the proxy's own figures."""
    counts, raw = told.counts, told.raw
    attributes = [
        _TOLD
        % (
            counts.input + counts.cached_input + counts.cache_write,
            counts.output,
            raw[QUEUE],
            raw[INTER_TOKEN],
            raw[OVERHEAD],
        ),
        _of_end(told.cause, told.estimated),
    ]
    if counts.cached_input:
        attributes.append(whole(names.CACHE_READ_TOKENS, counts.cached_input))
    if counts.cache_write:
        attributes.append(whole(names.CACHE_WRITE_TOKENS, counts.cache_write))
    if stream and told.ttft_us:
        attributes.append(seconds(names.FIRST_CHUNK, told.ttft_us))
    return attributes


@lru_cache(_CACHED)
def _of_end(cause: str, estimated: bool) -> bytes:
    return text(names.CAUSE, cause) + b"," + truth(names.ESTIMATED, value=estimated)


def _of_run(run: RunIds) -> Iterable[bytes]:
    for key, value in ((names.RUN, run.run), (names.STEP, run.step), (names.AGENT, run.agent)):
        if value:
            yield text(key, value)


@lru_cache(_CACHED)
def _name(route: str, model: str) -> bytes:
    operation = names.OPERATION_OF[route]
    return msgspec.json.encode(f"{operation} {model}" if model else operation)


@lru_cache(_CACHED)
def _of_route(route: str, model: str, served: str, stream: bool) -> bytes:
    attributes = [
        text(names.OPERATION, names.OPERATION_OF[route]),
        text(names.PROVIDER, names.OWN_PROVIDER),
        text(names.METHOD, "POST"),
        text(names.HTTP_ROUTE, route),
    ]
    if model:
        attributes.append(text(names.REQUEST_MODEL, model))
        attributes.append(truth(names.REQUEST_STREAM, value=stream))
    if served:
        attributes.append(text(names.RESPONSE_MODEL, served))
    return b",".join(attributes)


@lru_cache(_CACHED)
def _of_backend(route: str, model: str, backend: str, engine: str, base_url: str) -> bytes:
    attributes = [
        text(names.OPERATION, names.OPERATION_OF[route]),
        text(names.PROVIDER, engine),
        text(names.REQUEST_MODEL, model),
        text(names.BACKEND, backend),
    ]
    return b",".join((*attributes, *address_of(base_url)))


@lru_cache(_CACHED)
def address_of(base_url: str) -> tuple[bytes, ...]:
    """Where a backend listens: only host and port, since a password could stand before them."""
    url = urlsplit(base_url)
    if not url.hostname:
        return ()
    port = url.port or (443 if url.scheme == "https" else 80)
    return text(names.SERVER_ADDRESS, url.hostname), whole(names.SERVER_PORT, port)
