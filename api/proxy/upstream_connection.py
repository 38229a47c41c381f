"""One HTTP/1.1 connection to a backend: send a request, read its answer as it comes.

Decides: framing (chunked, by length, by the end of the connection; 1xx skipped), backpressure
towards the backend, and whether the connection can be used again. Does not decide which
connection a request takes, nor deadlines: its owner sweeps them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from api.proxy.answer_head import AnswerFacts
from api.proxy.answer_memo import AnswerMemo
from api.proxy.failures import anew
from api.proxy.headers import Headers
from api.proxy.whole_chunks import whole_chunks
from billing.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable

HIGH_WATER_BYTES = 256 << 10
MAX_HEAD_FIELDS = 200
MAX_HEAD_BYTES = 64 << 10

_BLANK_LINE = b"\r\n\r\n"
_NO_BODY = frozenset({204, 304})


class UpstreamConnection(asyncio.Protocol):
    """A connection that serves one exchange at a time.

    Attributes:
        status, headers, answer: once `head()` has returned; header names in lower case.
        answered: a byte of the answer has been received.
        used: exchanges begun on this connection.
        quiet_since_us: monotonic µs of the last progress, for deadlines.
        waited_us: how long the exchange at hand has waited for the backend so far.
        heard_us: monotonic µs of the last bytes that were waited for.
        connecting_us: what connecting took, counted to the first exchange.
        waits_for_first: no byte of the body has come yet.
        aborted: ended from our side.
        paused: reading is paused until the client has taken what is buffered.
        reusable: the answer is complete and the connection can take another request.
        tap: takes body bytes as they come, without waking the reader; False leaves them to it.
    """

    # More attributes than instances without slots share their names for.
    __slots__ = (
        "_between_chunks",
        "_body",
        "_buffered",
        "_chunked",
        "_complete",
        "_facts",
        "_failure",
        "_framed",
        "_has_head",
        "_head_bytes",
        "_informational",
        "_interrupted",
        "_loop",
        "_memo",
        "_parser",
        "_transport",
        "_waiter",
        "_waits_since_us",
        "_writable",
        "aborted",
        "answered",
        "connecting_us",
        "headers",
        "heard_us",
        "paused",
        "quiet_since_us",
        "reusable",
        "status",
        "tap",
        "used",
        "waited_us",
        "waits_for_first",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamError | None = None
        self.paused = False
        self.aborted = False
        self.tap: Callable[[bytes], bool] | None = None
        self._writable: asyncio.Event | None = None
        self._memo = AnswerMemo()
        self.used = 0
        self.connecting_us = 0
        self.quiet_since_us = time.monotonic_ns() // 1000
        self._reset()

    def _reset(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self._facts: AnswerFacts | None = None
        self.answered = False
        self.waits_for_first = False
        self.reusable = False
        self.waited_us = 0
        self.heard_us = 0
        self._waits_since_us = 0
        self._head_bytes = 0
        self._has_head = False
        self._framed = self._chunked = False
        self._informational = False
        self._complete = False
        self._body: list[bytes] = []
        self._buffered = 0
        self._interrupted = False
        self._between_chunks = False  # of a body whose chunks have all arrived whole
        self.tap = None

    # What the proxy calls.

    def begin(self, *parts: bytes) -> None:
        """Write a request. The connection must be fresh or reusable."""
        self._reset()
        self.used += 1
        self.waits_for_first = True
        self.quiet_since_us = time.monotonic_ns() // 1000
        if self._transport is None or self._transport.is_closing():
            self._fail(UpstreamUnavailable("The inference backend closed the connection."))
            return
        self._transport.writelines(parts)
        self.waited_us, self.connecting_us = self.connecting_us, 0
        self._waits_since_us = time.monotonic_ns() // 1000

    async def send(self, part: bytes) -> None:
        """More of a request whose head said so; waits while the backend does not read.

        Raises:
            UpstreamUnavailable, UpstreamTimeout: as `head`.
        """
        while self._writable is not None and self._failure is None:
            await self._writable.wait()
        if self._failure is not None:
            raise anew(self._failure)
        if self._transport is not None:
            self.quiet_since_us = time.monotonic_ns() // 1000
            self._transport.write(part)

    async def head(self) -> int:
        """Wait for the answer's head and return its status.

        Raises:
            UpstreamUnavailable: refused, reset or not HTTP.
            UpstreamTimeout: the owner's deadline passed.
        """
        while not self._has_head:
            await self._wait()
        return self.status

    async def first(self) -> None:
        """Wait for the first bytes of the body, or its end.

        Raises:
            UpstreamUnavailable: it broke off before them.
            UpstreamTimeout: the owner's deadline passed.
        """
        while not self._body and not self._complete:
            await self._wait()

    async def read(self) -> bytes:
        """Body bytes received since the last read; empty at the end of a complete body, and
        once after `interrupt`.

        Raises:
            UpstreamUnavailable: the body broke off.
            UpstreamTimeout: the owner's deadline passed.
        """
        while not self._body:
            if self._complete or self._interrupted:
                self._interrupted = False
                return b""
            await self._wait()
        received = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self.paused and self._transport is not None:
            self.paused = False
            self._transport.resume_reading()
        return received

    def interrupt(self) -> None:
        """Have the reader look up: whoever holds the tap has something for it."""
        self._interrupted = True
        self._end_waiting()
        self._wake()

    @property
    def answer(self) -> AnswerFacts:
        """What the answer's head says."""
        if self._facts is None:
            self._facts = AnswerFacts(self.headers)
        return self._facts

    @property
    def ended(self) -> bool:
        """The whole body has been received and read."""
        return self._complete and not self._body

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def abort(self, failure: UpstreamError | None = None) -> None:
        """Close at once; whoever waits gets the failure. The engine sees the client leave."""
        self.reusable = False
        self.aborted = True
        self._fail(failure or UpstreamUnavailable("The exchange was ended."))
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        """Give up on a backend that makes no progress."""
        self.abort(UpstreamTimeout("The inference backend did not answer in time."))

    async def _wait(self) -> None:
        if self._failure is not None:
            raise anew(self._failure)
        self._waiter = self._loop.create_future()
        if not self._waits_since_us:
            self._waits_since_us = time.monotonic_ns() // 1000
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._failure is not None and not self._body:
            raise anew(self._failure)

    def _end_waiting(self) -> None:
        if self._waits_since_us:
            self.waited_us += time.monotonic_ns() // 1000 - self._waits_since_us
            self._waits_since_us = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, failure: UpstreamError) -> None:
        if self._failure is None and not self._complete:
            self._failure = failure
        self._end_waiting()
        self._wake()
        self.resume_writing()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods without being its class.
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()

    def data_received(self, data: bytes) -> None:
        if self._complete or self.used == 0:
            # Nothing was asked: an answer now would be taken for the next request's.
            self.reusable = False
            self.abort()
            return
        now_us = time.monotonic_ns() // 1000
        if self._waits_since_us:
            self.heard_us = now_us
            self.waited_us += now_us - self._waits_since_us
            self._waits_since_us = 0
        self.quiet_since_us = now_us
        content = whole_chunks(data) if self._between_chunks else None
        if content is not None:
            if not self._body and self._tapped(content):
                return
            self.on_body(content)
        else:
            self.answered = True
            if not self._recall(data) and not self._parse(data):
                return
            if self._body and self._tapped(
                self._body[0] if len(self._body) == 1 else b"".join(self._body)
            ):
                self._body.clear()
                self._buffered = 0
                if not self._complete:
                    return
        if self._buffered > HIGH_WATER_BYTES and not self.paused and self._transport is not None:
            self.paused = True
            self._transport.pause_reading()
        self._wake()

    def _tapped(self, content: bytes) -> bool:
        """Whether the tap took them."""
        if self.tap is None or self._failure is not None or not self.tap(content):
            return False
        if not self._complete and not self._interrupted:
            self._waits_since_us = time.monotonic_ns() // 1000
        return True

    def _recall(self, data: bytes) -> bool:
        """Take an answer with a head that came before; False leaves it to the parser."""
        if self._head_bytes or self._has_head:
            return False
        answer = self._memo.recall(data)
        if answer is None:
            return False
        self.status, self._facts, self.headers, body = answer
        self._has_head = self._framed = self._complete = self.reusable = True
        if body:
            self.on_body(body)
        return True

    def _parse(self, data: bytes) -> bool:
        """Whether the parser took it."""
        first = not self._head_bytes
        self._between_chunks = False
        if not self._has_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort(UpstreamUnavailable("The inference backend did not answer in HTTP/1.1."))
            return False
        if not self._has_head and self._head_bytes > MAX_HEAD_BYTES:
            self.abort(UpstreamUnavailable("The inference backend sent too large a head."))
            return False
        if first and self._has_head:
            if self._complete and self.reusable:
                self._memo.remember(data, self.status, self.headers, self.answer)
            elif not self._complete and self._chunked:
                head_end = data.find(_BLANK_LINE) + len(_BLANK_LINE)
                self._between_chunks = whole_chunks(data, head_end) is not None
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        # The parser knows its connection: a circle that would wait for the garbage collector.
        del self._parser
        self.reusable = False
        if self._has_head and not self._framed and exc is None and not self._complete:
            self._complete = True  # the end of the connection is the end of this body
            self._wake()
            return
        self._fail(UpstreamUnavailable("The inference backend closed the connection."))

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")
        self.headers = []
        self._framed = self._chunked = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEAD_FIELDS:
            raise ValueError("too many header fields")
        if name in {b"content-length", b"transfer-encoding"}:
            self._framed = True
            self._chunked = value == b"chunked"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._informational = True
            return
        self.status = status
        self._framed = self._framed or status in _NO_BODY
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self.waits_for_first = False
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            return
        self._complete = True
        self.reusable = self._framed and self._parser.should_keep_alive()
