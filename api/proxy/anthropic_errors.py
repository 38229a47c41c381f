"""Refusals in the shape that Anthropic's clients understand.

Decides: which `type` an HTTP status has there. Status and message are those of OpenAI's shape, so
that one table says what a refusal is.
"""

from __future__ import annotations

import msgspec

from api.proxy.openai_errors import rendered as rendered_for_openai
from api.proxy.openai_errors import told
from billing.admission.route import ErrorShape
from billing.errors import SteelyardError

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Error(msgspec.Struct):
    type: str
    message: str


class _Body(msgspec.Struct):
    error: _Error
    request_id: str
    type: str = "error"


_ENCODER = msgspec.json.Encoder()


def rendered(error: SteelyardError, shown_id: bytes) -> tuple[int, bytes]:
    """HTTP status and JSON body of an error.

    Args:
        shown_id: id of the request as clients see it.
    """
    status, _, _, message, param = told(error)
    if param is not None:
        message = f"{param}: {message}"
    kind = _TYPES.get(status, "api_error")
    return status, _ENCODER.encode(_Body(_Error(kind, message), shown_id.decode()))


def rendered_as(shape: ErrorShape, error: SteelyardError, shown_id: bytes) -> tuple[int, bytes]:
    """HTTP status and JSON body of an error for the clients of a route."""
    if shape is ErrorShape.ANTHROPIC:
        return rendered(error, shown_id)
    return rendered_for_openai(error)
