"""Which response headers of a backend reach the client.

Decides: all of them, but those that belong to one hop, those that framing sets anew, and our own
names, which a backend must not be able to set; and which answers do not reach the client at all.
"""

from __future__ import annotations

import re

from api.proxy.headers import Headers, lines_of

REQUEST_ID = b"x-steelyard-request-id"
SERVED_MODEL = b"x-steelyard-served-model"
"""Sent where a fallback has answered in place of the model that was asked for."""

_OF_LIMITS = re.compile(rb"(?:x-|anthropic-)?ratelimit(?:-[^:]*)?:")
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
        SERVED_MODEL,
    }
)


def passed_headers(upstream: Headers, shown_id: bytes) -> Headers:
    """The backend's headers for the client, with our request id.

    Args:
        upstream: names in lower case.
    """
    return [*_passed(upstream), (REQUEST_ID, shown_id)]


def _passed(upstream: Headers) -> Headers:
    passed = [field for field in upstream if field[0] not in _OF_ONE_HOP]
    connection = [value for name, value in upstream if name == b"connection"]
    if connection:
        named = {token.strip().lower() for value in connection for token in value.split(b",")}
        passed = [field for field in passed if field[0] not in named]
    return passed


class AnswerFacts:
    """What a backend's head says to us, read once for all answers that come with the same.

    Attributes:
        stream: the answer is a stream of events.
        encoded: its body is compressed although we asked for it as it is: nobody could meter it.
        lines: what of the head passes to the client.
    """

    __slots__ = ("encoded", "lines", "stream")

    def __init__(self, headers: Headers) -> None:
        self.stream = _is_event_stream(headers)
        self.encoded = _is_encoded(headers)
        self.lines = lines_of(_passed(headers))


def without_limits(lines: bytes) -> bytes:
    """Lines of an answer's head without what its backend says of the operator's limits there: of
    two figures under one name, clients take either."""
    if b"ratelimit" not in lines:
        return lines
    return b"".join(line for line in lines.splitlines(keepends=True) if not _OF_LIMITS.match(line))


def shown_name(name: str) -> bytes:
    """A model's name as the value of a header: an engine chose it, and may not begin a new line."""
    return "".join(letter if "!" <= letter <= "~" else "?" for letter in name).encode("ascii")


def _is_event_stream(upstream: Headers) -> bool:
    for name, value in upstream:
        if name == b"content-type" and value.strip().lower().startswith(b"text/event-stream"):
            return True
    return False


def _is_encoded(upstream: Headers) -> bool:
    for name, value in upstream:
        if name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            return True
    return False


def retry_after_us(upstream: Headers) -> int:
    """For how long a backend asked to be left alone; 0 where it did not, or not in seconds."""
    for name, value in upstream:
        if name == b"retry-after" and value.isdigit() and len(value) < 6:
            return int(value) * 1_000_000
    return 0


def concerns_us(status: int) -> bool:
    """Whether an error answer is about the operator's credential or the backend's address.

    The client can mend neither, and must see neither: engines repeat part of a refused key, and
    a redirect names a host that would serve the client past the meter.
    """
    return 300 <= status < 400 or status in {401, 403, 407}
