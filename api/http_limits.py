"""Clients of the control plane that dawdle or send too much of a head.

Decides: how long a head and a body may take and how large a head may be. Parsing is uvicorn's, on
httptools; the size of bodies is the application's to limit. The data plane has a protocol class of
its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_SECONDS = 10.0
BODY_SECONDS = 120.0
HEAD_BYTES = 64 << 10
_PROBLEM = b'{"type":"about:blank","title":"%b","status":%d,"detail":"%b","code":"%b"}'


class LimitedConnection(HttpToolsProtocol):
    """One connection, whose head and body have deadlines."""

    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._in_head = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._expect_within(self.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(431, b"Headers too large", b"Send fewer or shorter headers.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._expect_within(self.head_seconds)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._expect_within(self.body_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def _expect_within(self, seconds: float) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse(408, b"Request timeout", b"Send the whole request without pauses.")

    def _refuse(self, status: int, title: bytes, detail: bytes) -> None:
        """Answer as the API does, and close."""
        self._in_head = False
        self._expect_nothing()
        if self.transport.is_closing():
            return
        code = title.lower().replace(b" ", b"_")
        content = _PROBLEM % (title, status, detail, code)
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(content)
        if self.cycle is None or not self.cycle.response_started:  # pyright: ignore[reportUnnecessaryComparison]  # None at first
            self.transport.write(
                STATUS_LINE[status] + head + b"connection: close\r\n\r\n" + content
            )
        self.transport.close()
