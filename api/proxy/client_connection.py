"""A client's HTTP/1.1 connection: uvicorn's protocol class with limits, deadlines and a view of
what has left.

Decides: which requests are refused before the application sees them (too large or slow a head,
no Host), and what a relay can ask of a connection: whether it is lost, how much is unsent, to
cut it. Parsing and framing stay uvicorn's, on httptools, which is strict about them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.proxy.corked_transport import CorkedTransport
from api.proxy.limits import Limits
from api.proxy.openai_errors import body as error_body

EXTENSION = "steelyard.client"
CONNECTION = "connection"
LINGER_SECONDS = 10.0


class ClientConnection(HttpToolsProtocol):
    """One connection of one client."""

    limits = Limits()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._since = self.loop.time()
        self._refusal = (400, "invalid_http", "The request is not valid HTTP/1.1.")
        self._on_lost: Callable[[], None] | None = None
        self._cut_since: float | None = None
        self._lost = False
        self._unsent = 0
        self._unsent_since = self._since

    # What relays use.

    @property
    def lost(self) -> bool:
        """The connection is gone; nothing more can be delivered."""
        return self._lost

    @property
    def blocked(self) -> bool:
        """The client does not read what was written, and writers wait for it."""
        return self.flow.write_paused and not self._lost

    def watch(self, on_lost: Callable[[], None] | None) -> None:
        """Call back once when the client closes the connection, even while it is silent."""
        self._on_lost = on_lost

    def unsent_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self.transport.get_write_buffer_size()

    def cut(self, *, flush: bool) -> None:
        """Close in the middle of an answer. With `flush`, what was written may still leave."""
        if self._lost or self.transport.is_closing():
            return
        if self.cycle is not None:  # pyright: ignore[reportUnnecessaryComparison]  # None at first
            self.cycle.disconnected = True
        if flush:
            self._cut_since = self.loop.time()
            self.transport.close()
        else:
            self.transport.abort()

    def sweep(self, now: float) -> None:
        """Enforce the deadlines; called a few times a second for every connection."""
        waited_ms = (now - self._since) * 1000
        if self._reads_nothing(now):
            self.transport.abort()  # a whole answer would stay in memory as long as it likes
        elif self._cut_since is not None:
            if now - self._cut_since > LINGER_SECONDS:
                self.transport.abort()
        elif self._in_head:
            if waited_ms > self.limits.head_ms:
                self._refuse(408, "request_timeout", "The request did not arrive in time.")
        elif self._in_body:
            if waited_ms > self.limits.body_ms:
                self._refuse(408, "request_timeout", "The request did not arrive in time.")
        elif self._never_used and waited_ms > self.limits.idle_ms:
            self.transport.close()

    def _reads_nothing(self, now: float) -> bool:
        unsent = self.unsent_bytes()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return (now - self._unsent_since) * 1000 > self.limits.client_stalled_ms

    @property
    def _never_used(self) -> bool:
        return self.cycle is None  # pyright: ignore[reportUnnecessaryComparison]  # None at first

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(CorkedTransport(transport))
        self._since = self.loop.time()
        if len(self.connections) > self.limits.connections:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._lost or self.transport.is_closing():
            return
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self._refuse(431, "headers_too_large", "The request's headers are too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        super().connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()

    # Callbacks of the parser.

    def on_response_complete(self) -> None:
        cast("CorkedTransport", self.transport).uncork()
        super().on_response_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0
        self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_bytes + self._chunk_bytes > self.limits.head_bytes and (
            len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            > self.limits.head_bytes
        ):
            self._reject(431, "headers_too_large", "The request's headers are too large.")
        if len(self.headers) > self.limits.head_fields:
            self._reject(431, "headers_too_large", "The request has too many headers.")
        hosts = [name for name, _ in self.headers].count(b"host")
        version = self.parser.get_http_version() if self.parser is not None else "1.1"
        if hosts > 1 or (not hosts and version == "1.1"):
            self._reject(400, "invalid_http", "The request needs one Host header.")
        extensions: dict[str, dict[object, object]] = {EXTENSION: {CONNECTION: self}}
        self.scope["extensions"] = extensions
        self._in_body = True
        self._since = self.loop.time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def _reject(self, status: int, code: str, message: str) -> None:
        """Refuse from inside the parser, which turns the exception into `send_400_response`."""
        self._refusal = (status, code, message)
        raise httptools.HttpParserError(message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._refusal = (status, code, message)
        self.send_400_response(message)

    def send_400_response(self, msg: str) -> None:
        """Answer in OpenAI's shape and close. uvicorn calls this for anything that is no HTTP."""
        del msg
        self._in_head = self._in_body = False
        if self.cycle is not None and self.cycle.response_started:  # pyright: ignore[reportUnnecessaryComparison]
            self.cut(flush=True)  # an answer is under way: another head would corrupt it
            return
        status, code, message = self._refusal
        content = error_body(message, wire_type="invalid_request_error", code=code)
        head = (
            b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % len(content)
        )
        self.transport.write(STATUS_LINE[status] + head + content)
        self.transport.close()


def connection_class(limits: Limits) -> type[ClientConnection]:
    """The protocol class with a deployment's limits."""
    return type("LimitedConnection", (ClientConnection,), {"limits": limits})
