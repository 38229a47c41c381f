"""Refusals in the shape that OpenAI's clients understand.

Decides: which HTTP status and which `type` and `code` an error gets on `/v1`. The message is the
error's own, which never repeats values of the request.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from api.proxy.headers import Headers
from billing.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    JournalError,
    NotFound,
    SteelyardError,
    Unauthenticated,
    UnpricedModel,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
)


class TooLarge(InvalidInput):
    """A body beyond the limit."""

    code = "request_too_large"


class TooSlow(InvalidInput):
    """A request that did not arrive in time."""

    code = "request_timeout"


class Unavailable(SteelyardError):
    """The proxy takes no requests now: it is stopping, full, or cannot make usage durable."""

    code = "service_unavailable"


class ClientLeft(SteelyardError):
    """The client closed its connection before its request was complete: nobody to answer."""

    code = "client_left"


# The first class that fits decides, so subclasses stand before their bases.
_STATUS: tuple[tuple[type[SteelyardError], int, str, str], ...] = (
    (Unauthenticated, 401, "invalid_request_error", "invalid_api_key"),
    (Forbidden, 403, "permission_error", "forbidden"),
    (UnpricedModel, 403, "permission_error", "unpriced_model"),
    (NotFound, 404, "invalid_request_error", ""),
    (TooLarge, 413, "invalid_request_error", "request_too_large"),
    (TooSlow, 408, "invalid_request_error", "request_timeout"),
    (InvalidInput, 400, "invalid_request_error", ""),
    (Conflict, 409, "invalid_request_error", ""),
    (UpstreamTimeout, 504, "server_error", "upstream_timeout"),
    (UpstreamUnavailable, 502, "server_error", "upstream_unavailable"),
    (UpstreamError, 502, "server_error", "upstream_error"),
    (JournalError, 503, "server_error", "service_unavailable"),
    (Unavailable, 503, "server_error", "service_unavailable"),
)


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class _Body(msgspec.Struct):
    error: _Error


_ENCODER = msgspec.json.Encoder()


class Told(NamedTuple):
    """What a client is told of an error, whatever the shape."""

    status: int
    wire_type: str
    code: str
    message: str
    param: str | None


def told(error: SteelyardError) -> Told:
    """Status, type, code and message of an error. A kind without a status of its own is a 500."""
    fitting = next((row for row in _STATUS if isinstance(error, row[0])), None)
    if fitting is None:
        message = "The server had an error while processing your request."
        return Told(500, "server_error", "internal_error", message, None)
    _, status, wire_type, code = fitting
    message = error.message
    if status == 503 and not isinstance(error, Unavailable):
        message = "Usage cannot be recorded at the moment; please retry."
    elif error.remedy:
        message = f"{message} {error.remedy}"
    if status == 404 and error.field == "model":
        code = "model_not_found"
    return Told(status, wire_type, code or error.code, message, error.field)


def rendered(error: SteelyardError) -> tuple[int, bytes]:
    """HTTP status and JSON body of an error."""
    status, wire_type, code, message, param = told(error)
    return status, body(message, wire_type=wire_type, param=param, code=code)


def body(message: str, *, wire_type: str, code: str, param: str | None = None) -> bytes:
    """`{"error": {"message", "type", "param", "code"}}`."""
    return _ENCODER.encode(_Body(_Error(message, wire_type, param, code)))


def json_headers(status: int, *more: tuple[bytes, bytes]) -> Headers:
    """Headers of a JSON answer of ours."""
    headers = [(b"content-type", b"application/json"), *more]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    return headers
