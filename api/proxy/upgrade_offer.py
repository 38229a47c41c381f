"""Offers to speak another protocol, which a server may ignore, and this one does.

Decides: what a head says without its offer. The parser stops behind a head with one, before the
body, so the head is read once more. Java's client offers HTTP/2 with its first request.
"""

from __future__ import annotations

from api.proxy.headers import Headers

_OFFERS = frozenset({b"upgrade", b"http2-settings"})


def head_without_offer(method: bytes, url: bytes, headers: Headers) -> bytes:
    """The head of an HTTP/1.1 request that offered another protocol, without the offer."""
    head = [b"%b %b HTTP/1.1\r\n" % (method, url)]
    for name, value in headers:
        kept = value
        if name == b"connection":
            kept = b"close" if b"close" in _tokens(value) else b"keep-alive"
        if name not in _OFFERS:
            head.append(b"%b: %b\r\n" % (name, kept))
    return b"".join([*head, b"\r\n"])


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]
