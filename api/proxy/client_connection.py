"""A client's HTTP/1.1 connection: strict parsing, limits, deadlines and a view of what has left.

Decides: which requests are refused before the application sees them (no HTTP, too large or slow
a head, no Host), that requests on one connection are served one after the other, and what a
relay can ask of a connection: whether it is lost, how much is unsent, to cut it. Parsing is
llhttp's, by httptools. Does not decide what is answered.

Why not a general ASGI server: its dictionaries, timers and flow control cost as much per request
as everything that meters it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

import httptools

from api.proxy.client_request import ClientRequest
from api.proxy.head_memo import HeadMemo, memo_of
from api.proxy.headers import Headers
from api.proxy.limits import Limits
from api.proxy.openai_errors import ClientLeft, TooSlow
from api.proxy.openai_errors import body as error_body
from api.proxy.said_head import VAIN_MAX
from api.proxy.upgrade_offer import head_without_offer

LINGER_SECONDS = 10.0
MAX_WAITING = 16
"""Requests of one connection that may wait for the one before them."""


class Host(Protocol):
    """Whose connections these are.

    Attributes:
        connections: all open ones.
    """

    limits: Limits
    loop: asyncio.AbstractEventLoop
    connections: set[ClientConnection]
    stopping: bool

    def serve(self, request: ClientRequest, client: ClientConnection) -> Coroutine[Any, Any, None]:
        """Answer a request; never raises."""
        ...


class ClientConnection(asyncio.Protocol):
    """One connection of one client.

    Attributes:
        lost: the connection is gone; nothing more can be delivered.
        blocked: the client does not read what was written, and writers wait for it.
    """

    def __init__(self, host: Host) -> None:
        self.lost = self.blocked = False
        self._host = host
        self._limits = host.limits
        self._transport = cast("asyncio.Transport", None)
        self._parser = httptools.HttpRequestParser(self)
        self._serving: ClientRequest | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[ClientRequest] = deque()
        self._receiving: ClientRequest | None = None
        self._latest: ClientRequest | None = None
        self._memo: HeadMemo | None = None
        self._memos = self._begun = 0  # heads remembered; requests in what is being parsed
        self._url = b""
        self._headers: Headers = []
        self._add_header = self._headers.append
        self._in_head = False
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._since = host.loop.time()
        self._refusal = (400, "invalid_http", "The request is not valid HTTP/1.1.")
        self._refuse_next: tuple[int, str, str] | None = None
        self._on_lost: Callable[[], None] | None = None
        self._closing_since: float | None = None
        self._deaf = False  # what still comes is nobody's
        self._paused = False
        self._writable: asyncio.Event | None = None
        self._unsent = 0
        self._unsent_since = self._since

    # What relays use.

    def watch(self, on_lost: Callable[[], None] | None) -> None:
        """Call back once when the client closes the connection, even while it is silent."""
        self._on_lost = on_lost

    def unsent_bytes(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    def cut(self, *, flush: bool) -> None:
        """Close in the middle of an answer. With `flush`, what was written may still leave."""
        self._deaf = True
        if self.lost or self._transport.is_closing():
            return
        if flush:
            self._closing_since = self._host.loop.time()
            self._transport.close()
        else:
            self._transport.abort()

    # What requests use.

    def send(self, content: bytes) -> bool:
        """Write bytes, if the connection is not gone; whether the kernel has taken all of them,
        and all before them."""
        transport = self._transport
        if self.lost or transport.is_closing():
            return False
        transport.write(content)
        return not transport.get_write_buffer_size()

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be written."""
        while self._writable is not None and not self.lost:
            await self._writable.wait()

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused and not self.lost:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on, unless requests wait that have not been begun."""
        if self._paused and not self.lost and len(self._waiting) < MAX_WAITING:
            self._paused = False
            self._since = self._host.loop.time()
            self._transport.resume_reading()

    def complete(self, request: ClientRequest) -> None:
        """An answer has been written to its end: serve what waits, or end the connection."""
        self._serving = None
        self._since = self._host.loop.time()
        if self.lost or self._transport.is_closing():
            return
        if not request.keeps_alive or (self._host.stopping and not self._waiting):
            self._end(request)
        elif self._waiting:
            self._serve(self._waiting.popleft())
            self.resume()
        elif self._refuse_next is not None:
            self._refuse(*self._refuse_next)
        else:
            self.resume()

    def _end(self, request: ClientRequest) -> None:
        """Close after an answer. While the client still sends a body that nobody wants, only our
        side: closing under it would reset the connection, and the answer with it."""
        self._deaf = True
        self._closing_since = self._host.loop.time()
        if request.body_complete:
            self._transport.close()
        else:
            self._transport.write_eof()
            self.resume()

    # What the server uses.

    def shut_down(self) -> None:
        """Close once nothing is being served."""
        if self._serving is None and not self.lost:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """Enforce the deadlines; called a few times a second for every connection."""
        waited_ms = (now - self._since) * 1000
        if self._reads_nothing(now):
            self._transport.abort()  # a whole answer would stay in memory as long as it likes
        elif self._closing_since is not None:
            if now - self._closing_since > LINGER_SECONDS:
                self._transport.abort()
        elif self._paused:
            return
        elif self._in_head:
            if waited_ms > self._limits.head_ms:
                self._refuse(408, "request_timeout", "The request did not arrive in time.")
        elif self._receiving is not None:
            if waited_ms > self._limits.body_ms:
                self._give_up(self._receiving)
        elif self._serving is None and waited_ms > self._limits.idle_ms:
            self._transport.close()

    def _give_up(self, request: ClientRequest) -> None:
        """A body takes too long: whoever waits for it answers, and nobody else reads on."""
        self._since = self._host.loop.time()
        if request.status:
            self.cut(flush=True)
        else:
            request.keeps_alive = False
            request.refuse_body(TooSlow("The request did not arrive in time."))

    def _reads_nothing(self, now: float) -> bool:
        unsent = self.unsent_bytes()
        if not unsent or unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        return (now - self._unsent_since) * 1000 > self._limits.client_stalled_ms

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio's methods without being its class.
        self._transport = cast("asyncio.Transport", transport)
        self._host.connections.add(self)
        if len(self._host.connections) > self._limits.connections:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._host.connections.discard(self)
        for request in filter(None, (self._serving, self._receiving)):
            request.refuse_body(ClientLeft("The client left."))
        self._waiting.clear()
        self.resume_writing()
        if self._on_lost is not None:
            self._on_lost()
        # What knows its connection is a circle, which would wait for the garbage collector.
        self._serving = self._receiving = self._latest = None
        del self._parser

    def pause_writing(self) -> None:
        self._writable = asyncio.Event()
        self.blocked = not self.lost

    def resume_writing(self) -> None:
        self.blocked = False
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.set()

    def data_received(self, data: bytes) -> None:
        if self._serving is None and self._memo is not None and self._recall(data, self._memo):
            return
        while data and not self._deaf:
            data = self._parse(data)

    def _recall(self, data: bytes, memo: HeadMemo) -> bool:
        """Serve a request with the last one's head; False leaves it to the parser."""
        if self._in_head or self._receiving is not None or self._waiting or self._deaf:
            return False
        recalled = memo.recall(data)
        if recalled is None:
            return False
        request = ClientRequest(
            self,
            memo.method,
            memo.path,
            recalled.headers,
            query=memo.query,
            chunks=True,
            keeps_alive=True,
            fields=recalled.fields,
            facts=memo.facts,
        )
        self._since = self._host.loop.time()
        self._memos = 0
        request.receive(recalled.body)
        request.receive_end()
        self._serve(request)
        return True

    def _remember(self, data: bytes) -> None:
        """Keep the head of the request that these bytes were, if they were just one."""
        request, self._latest = self._latest, None
        if request is None or not request.body_complete or self._begun > 1 or self._in_head:
            return
        if data and self._memos < VAIN_MAX:
            self._memos += 1
            self._memo = memo_of(data, request)

    def _parse(self, data: bytes) -> bytes:
        """Feed the parser; what is to be parsed next, if it stopped early."""
        between = not self._in_head and self._receiving is None
        self._chunk_bytes, self._begun = len(data), 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                self._refuse(*self._refusal)
                return b""
            head = head_without_offer(self._parser.get_method(), self._url, self._headers)
            self._parser = httptools.HttpRequestParser(self)
            return head + data[upgrade.args[0] :]
        except httptools.HttpParserError:
            if not self._deaf:
                self._refuse(*self._refusal)
            return b""
        self._remember(data if between else b"")
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(431, "headers_too_large", "The request's headers are too large.")
        return b""

    # Callbacks of the parser.

    def on_message_begin(self) -> None:
        self._begun += 1
        self._url = b""
        self._headers = []
        self._add_header = self._headers.append
        self._in_head = True
        self._head_bytes = 0
        self._since = self._host.loop.time()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._add_header((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser, headers = self._parser, self._headers
        if parser.should_upgrade():
            return
        if self._head_bytes + self._chunk_bytes > self._limits.head_bytes and (
            len(self._url) + sum(len(name) + len(value) + 4 for name, value in headers)
            > self._limits.head_bytes
        ):
            self._reject(431, "headers_too_large", "The request's headers are too large.")
        if len(headers) > self._limits.head_fields:
            self._reject(431, "headers_too_large", "The request has too many headers.")
        is_1_1 = parser.get_http_version() == "1.1"
        request = ClientRequest(
            self,
            parser.get_method(),
            self._path(),
            headers,
            query=self._url.partition(b"?")[2],
            chunks=is_1_1,
            keeps_alive=is_1_1 and parser.should_keep_alive(),
        )
        fields = request.fields
        if b"host" not in fields:
            if is_1_1:
                self._reject(400, "invalid_http", "The request needs one Host header.")
        elif len(fields) < len(headers) and len(request.all_of(b"host")) > 1:
            self._reject(400, "invalid_http", "The request needs one Host header.")
        self._receiving = self._latest = request
        if self._serving is None and not self._waiting:
            self._serve(request)
        else:
            self._waiting.append(request)
            if len(self._waiting) >= MAX_WAITING:
                self.pause()

    def on_body(self, body: bytes) -> None:
        if self._receiving is not None:
            self._receiving.receive(body)

    def on_message_complete(self) -> None:
        self._since = self._host.loop.time()
        request, self._receiving = self._receiving, None
        if request is not None:
            request.receive_end()
            self._deaf = self._deaf or not request.keeps_alive  # nothing may follow it

    def _path(self) -> bytes:
        if self._url.startswith(b"/"):
            return self._url.partition(b"?")[0]
        try:
            return httptools.parse_url(self._url).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return self._reject(400, "invalid_http", "The request's target is not a URL.")

    def _serve(self, request: ClientRequest) -> None:
        self._serving = request
        self._task = self._host.loop.create_task(self._host.serve(request, self))

    def _reject(self, status: int, code: str, message: str) -> Any:
        """Refuse from inside the parser, which passes the exception on."""
        self._refusal = (status, code, message)
        raise httptools.HttpParserError(message)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer in OpenAI's shape and close."""
        self._in_head = False
        serving = self._serving
        if serving is not None and serving.body_complete:
            self._deaf = True  # what came before it is answered first
            self._refuse_next = (status, code, message)
            return
        if serving is not None and serving.status:
            self.cut(flush=True)  # an answer is under way: another head would corrupt it
            return
        content = error_body(message, wire_type="invalid_request_error", code=code)
        refused = ClientRequest(self, b"POST", b"", [], chunks=True, keeps_alive=False)
        self._serving = None
        refused.answer(status, [(b"content-type", b"application/json")], content)
