"""The spans of one request about stored objects, as OTLP's JSON.

Decides: one span of the request (SERVER) and one of each call to a backend (CLIENT), by
OpenTelemetry's conventions for HTTP, since nothing is inferred. Their names are those of routes: no
attribute carries the id of an object, a query, a header or a word of a body. Does not decide which
requests are recorded (`recorder.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from api.proxy.ids import shown
from api.proxy.telemetry import conventions as names
from api.proxy.telemetry.spans import CLIENT, SERVER, address_of, span, text, whole
from api.proxy.telemetry.trace_context import Place, Trace, attempt_id
from billing.admission.backend import Backend
from billing.admission.route import find_route

MOST_CALLS: Final = 100
"""Spans of one request: a list of files asks once for each, on as many pages as it takes."""

ABANDONED: Final = "abandoned"
"""A call that nobody waited for any more; it says nothing of the backend."""

_OTHER: Final = "other"


class StoredCall(msgspec.Struct, gc=False):
    """What a backend is asked; it is filled in as it goes on.

    Attributes:
        route: as it stands in the table, without ids.
        began_us: monotonic.
        status: of the answer; 0 without one.
        error: code of what broke it off, or empty.
    """

    method: str
    route: str
    backend: Backend
    ordinal: int
    began_us: int
    duration_us: int = 0
    status: int = 0
    error: str = ""


class TracedStored(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a request until its spans are exported.

    Attributes:
        route: as it stands in the table, without ids.
        began_at_us, began_us: the same instant, since 1970 UTC and monotonic.
        error: empty where nothing went wrong; `failed` if that was not the client's doing.
    """

    trace: Trace
    method: str
    route: str
    began_at_us: int
    began_us: int
    duration_us: int
    status: int
    error: str
    failed: bool
    calls: tuple[StoredCall, ...] = ()


def route_of(method: str, path: str) -> str:
    """The route that a path belongs to, as it stands in the table."""
    found = find_route(method.encode(), path.encode())
    return _OTHER if found is None else found[0].path


def stored_spans_of(request: TracedStored) -> bytes:
    """Its spans, with commas between them."""
    place = request.trace.place
    return b",".join(
        (_request_span(request, place), *(_call_span(request, place, one) for one in request.calls))
    )


def _request_span(request: TracedStored, place: Place) -> bytes:
    attributes = [
        text(names.METHOD, request.method),
        text(names.HTTP_ROUTE, request.route),
        text(names.REQUEST_ID, shown(request.trace.operation_id).decode()),
    ]
    if request.status:
        attributes.append(whole(names.STATUS, request.status))
    if request.error:
        attributes.append(text(names.ERROR_TYPE, request.error))
    return span(
        place,
        (place.span_id, place.parent_id, SERVER),
        _name(request.method, request.route),
        (request.began_at_us, request.duration_us),
        attributes,
        failed=request.failed,
    )


def _call_span(request: TracedStored, place: Place, call: StoredCall) -> bytes:
    attributes = [
        text(names.METHOD, call.method),
        text(names.URL_TEMPLATE, call.route),
        text(names.PROVIDER, call.backend.engine),
        text(names.BACKEND, call.backend.name),
        *address_of(call.backend.base_url),
    ]
    if call.status:
        attributes.append(whole(names.STATUS, call.status))
    error = call.error or (str(call.status) if call.status >= 400 else "")
    if error:
        attributes.append(text(names.ERROR_TYPE, error))
    return span(
        place,
        (attempt_id(place.span_id, call.ordinal), b"%016x" % place.span_id, CLIENT),
        _name(call.method, call.route),
        (request.began_at_us + call.began_us - request.began_us, call.duration_us),
        attributes,
        failed=error not in {"", ABANDONED},
    )


def _name(method: str, route: str) -> bytes:
    return msgspec.json.encode(f"{method} {route}")
