"""From errors to HTTP: the only place that knows a status.

Every answer that is not a success has one shape, RFC 9457 `application/problem+json`. It says
nothing that came from the request and nothing of the inside: messages of our own errors are
written for callers, those of frameworks and drivers are never shown.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, cast

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.deployment import Connection
from billing.errors import InvalidPlan, SteelyardError

log = structlog.get_logger("steelyard.api")

MEDIA_TYPE = "application/problem+json"
INTERNAL = "internal_error"
_UNIQUE_VIOLATION = "23505"
_MISSING = re.compile(r"Missing required \w+ parameter '([\w-]+)' for path ")

STATUS: Mapping[str, HTTPStatus] = {
    "error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_input": HTTPStatus.BAD_REQUEST,
    "invalid_plan": HTTPStatus.BAD_REQUEST,
    "amount_out_of_range": HTTPStatus.BAD_REQUEST,
    "configuration_error": HTTPStatus.SERVICE_UNAVAILABLE,
    "embedded_server_error": HTTPStatus.SERVICE_UNAVAILABLE,
    "invalid_api_key": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "idempotency_conflict": HTTPStatus.CONFLICT,
    "cursor_moved": HTTPStatus.CONFLICT,
    "unrated_usage": HTTPStatus.CONFLICT,
    "overlapping_charges": HTTPStatus.CONFLICT,
    "unpriced_model": HTTPStatus.CONFLICT,
    "ledger_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "journal_error": HTTPStatus.INTERNAL_SERVER_ERROR,
    "upstream_error": HTTPStatus.BAD_GATEWAY,
    "upstream_unavailable": HTTPStatus.BAD_GATEWAY,
    "upstream_timeout": HTTPStatus.GATEWAY_TIMEOUT,
    "payment_error": HTTPStatus.BAD_GATEWAY,
    "stripe_unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "stripe_refused": HTTPStatus.BAD_GATEWAY,
    "payment_mismatch": HTTPStatus.INTERNAL_SERVER_ERROR,
    "bad_signature": HTTPStatus.BAD_REQUEST,
    "tie_out_failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Status of every stable code of `billing.errors`."""

_FRAMEWORK: Mapping[int, tuple[str, str, str]] = {
    400: ("invalid_input", "the request cannot be read", "see /api/v1/openapi.json"),
    401: ("invalid_api_key", "the API key is not valid", "check the key, or ask for a new one"),
    403: ("forbidden", "this is not allowed", "ask with a key of another role"),
    404: ("not_found", "there is nothing here", "see /api/v1/openapi.json"),
    405: ("method_not_allowed", "no such method here", "see the Allow header"),
    413: ("body_too_large", "the body is too large", "send it in parts"),
    415: (
        "unsupported_media_type",
        "this kind of body is not taken here",
        "send JSON as application/json, plans and costs as application/yaml",
    ),
}
"""What to say for a status that the framework chose: (code, detail, remedy)."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What every refusal and failure looks like (RFC 9457).

    Attributes:
        code: stable name for machines.
        detail: one sentence; absent where saying more would tell of the inside.
        field: path of the offending input.
        remedy: what the caller can do about it.
        line: 1-based line of a refused file.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    field: str | None = None
    remedy: str | None = None
    line: int | msgspec.UnsetType = msgspec.UNSET


def problem_of(
    status: int,
    code: str,
    *,
    detail: str | None = None,
    field: str | None = None,
    remedy: str | None = None,
    line: int | None = None,
) -> Problem:
    """A problem with its type and title."""
    return Problem(
        type=f"urn:steelyard:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        field=field,
        remedy=remedy,
        line=msgspec.UNSET if line is None else line,
    )


def answer_deliberate(connection: Connection, error: SteelyardError) -> Response[Problem]:
    """An error that we raised on purpose: its message was written for the caller."""
    status = STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        _log_failure(connection, error)
    return _answer(
        problem_of(
            status,
            error.code,
            detail=error.message,
            field=error.field,
            remedy=error.remedy,
            line=error.line if isinstance(error, InvalidPlan) else None,
        )
    )


def answer_framework(_: Connection, error: HTTPException) -> Response[Problem]:
    """A refusal by the framework: its text may repeat the request, so only its status counts."""
    if isinstance(error, ValidationException):
        return _answer(_invalid_parameter(error))
    status = error.status_code
    code, detail, remedy = _FRAMEWORK.get(status, ("invalid_input", None, None))
    kept = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
    return _answer(problem_of(status, code, detail=detail, remedy=remedy), kept)


def answer_database(connection: Connection, error: Exception) -> Response[Problem]:
    """The database refused or is away: a race that the caller lost, or try again later."""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if isinstance(error, IntegrityError) and state != _UNIQUE_VIOLATION:
        return answer_unknown(connection, error)
    if state == _UNIQUE_VIOLATION:
        return _answer(
            problem_of(
                HTTPStatus.CONFLICT,
                "conflict",
                detail="another request made the same thing at the same moment",
                remedy="read what it made, then try again",
            )
        )
    _log_failure(connection, error)
    return _answer(
        problem_of(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "database_unavailable",
            detail="the database does not answer",
            remedy="try again in a moment",
        ),
        {"Retry-After": "1"},
    )


def answer_unknown(connection: Connection, error: Exception) -> Response[Problem]:
    """A defect of ours: nothing about it leaves."""
    _log_failure(connection, error)
    return _answer(problem_of(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL))


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    SteelyardError: answer_deliberate,
    HTTPException: answer_framework,
    OperationalError: answer_database,
    InterfaceError: answer_database,
    IntegrityError: answer_database,
    PoolTimeout: answer_database,
    Exception: answer_unknown,
}


def _answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response[Problem]:
    named = dict(headers or {})
    if problem.status == HTTPStatus.UNAUTHORIZED:
        named["WWW-Authenticate"] = 'Bearer realm="steelyard"'
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=named)


def _invalid_parameter(error: ValidationException) -> Problem:
    """A path or query parameter of the wrong form. Only its name is shown.

    What a path cannot name does not exist, so it is the same 404 as what it does not name.
    """
    listed = cast("list[dict[str, str]]", error.extra if isinstance(error.extra, list) else [])
    first = listed[0] if listed else {}
    if first.get("source") == "path":
        code, detail, remedy = _FRAMEWORK[404]
        return problem_of(HTTPStatus.NOT_FOUND, code, detail=detail, remedy=remedy)
    return problem_of(
        HTTPStatus.BAD_REQUEST,
        "invalid_input",
        detail="a value is missing or not of the form that is asked for",
        field=first.get("key", "").rstrip("_") or _missing(error),
        remedy="see /api/v1/openapi.json",
    )


def _missing(error: ValidationException) -> str | None:
    """The parameter that a handler needs and nobody sent; the framework says it in words only."""
    found = _MISSING.match(error.detail)
    return None if found is None else found[1]


def _log_failure(connection: Connection, error: Exception) -> None:
    """Say where it failed, never with which values: messages of drivers can carry them."""
    log.error(
        "request failed",
        error=type(error).__name__,
        route=cast("Mapping[str, object]", connection.scope).get("path_template"),
        at=_frames(error.__traceback__),
    )


def _frames(trace: TracebackType | None) -> list[str]:
    return [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)
    ]
