"""The answers by which Stripe refuses, in its own shape.

Decides status, type and code. Which situation calls for which refusal is decided by the modules
that know the rules.
"""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """An error answer. `stored`: execution had begun, so the idempotency key keeps this answer."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        stored: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.code = code
        self.param = param
        self.stored = stored

    def body(self) -> dict[str, Any]:
        named = {"code": self.code, "param": self.param}
        present = {name: text for name, text in named.items() if text is not None}
        return {"error": {"type": self.kind, "message": self.message, **present}}


def invalid(message: str, *, code: str | None = None, param: str | None = None) -> Refusal:
    """A request that is well-formed but not allowed in the current state."""
    return Refusal(400, "invalid_request_error", message, code=code, param=param)


def missing(kind: str, object_id: str, param: str) -> Refusal:
    return Refusal(
        404,
        "invalid_request_error",
        f"No such {kind}: '{object_id}'",
        code="resource_missing",
        param=param,
    )


def malformed(message: str, *, code: str | None = None, param: str | None = None) -> Refusal:
    """A request refused before anything was executed: its key stays free."""
    return Refusal(400, "invalid_request_error", message, code=code, param=param, stored=False)


def unauthenticated(message: str) -> Refusal:
    return Refusal(401, "invalid_request_error", message, stored=False)


def unrecognized(method: str, path: str) -> Refusal:
    message = f"Unrecognized request URL ({method}: {path})."
    return Refusal(404, "invalid_request_error", message, code="url_invalid", stored=False)


def rate_limited() -> Refusal:
    message = "Request rate limit exceeded."
    return Refusal(429, "invalid_request_error", message, code="rate_limit", stored=False)


def key_in_use() -> Refusal:
    return Refusal(
        409,
        "idempotency_error",
        "There is currently another in-progress request using this Idempotent Key.",
        code="idempotency_key_in_use",
        stored=False,
    )


def key_reused() -> Refusal:
    return Refusal(
        400,
        "idempotency_error",
        "Keys for idempotent requests can only be used with the same parameters they were first"
        " used with.",
        stored=False,
    )


def lock_timeout() -> Refusal:
    return Refusal(
        409,
        "invalid_request_error",
        "This object cannot be accessed right now because another request is using it.",
        code="lock_timeout",
        stored=False,
    )


def broken(*, stored: bool) -> Refusal:
    return Refusal(500, "api_error", "An unknown error occurred.", stored=stored)
