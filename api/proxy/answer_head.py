"""Which response headers of a backend reach the client.

Decides: all of them, but those that belong to one hop, those that framing sets anew, and our own
name, which a backend must not be able to set.
"""

from __future__ import annotations

from api.proxy.asgi import Headers

REQUEST_ID = b"x-steelyard-request-id"

_OF_ONE_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        REQUEST_ID,
    }
)


def passed_headers(upstream: Headers, shown_id: bytes) -> Headers:
    """The backend's headers for the client, with our request id.

    Args:
        upstream: names in lower case.
    """
    named = _OF_ONE_HOP
    for name, value in upstream:
        if name == b"connection":
            named = named | {token.strip().lower() for token in value.split(b",")}
    passed = [(name, value) for name, value in upstream if name not in named]
    passed.append((REQUEST_ID, shown_id))
    return passed


def is_event_stream(upstream: Headers) -> bool:
    """Whether the answer is a stream of events."""
    return any(
        name == b"content-type" and value.strip().lower().startswith(b"text/event-stream")
        for name, value in upstream
    )
