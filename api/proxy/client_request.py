"""One request of a client, and the answer to it, as HTTP/1.1 bytes.

Decides: how an answer is framed (by length, in chunks, or by the end of the connection for
HTTP/1.0) and that a head leaves together with the first bytes behind it: a write of uvloop is a
system call and a wake-up of the client at once. Does not decide what is answered, nor which
requests are parsed (`client_connection.py`).
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import Protocol

from api.proxy.failures import anew
from api.proxy.headers import Fields, Headers, HeadFacts, lines_of
from api.proxy.openai_errors import ClientLeft, TooLarge, TooSlow

HIGH_WATER_BYTES = 256 << 10
"""Of a body that nobody has asked for yet; then the client has to wait."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TOO_LARGE = 413
_NO_BODY = frozenset({204, 304})
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in HTTPStatus
}


class Link(Protocol):
    """The connection that a request came on."""

    @property
    def lost(self) -> bool:
        """It is gone; nothing can be delivered."""
        ...

    @property
    def blocked(self) -> bool:
        """Whoever writes has to wait, because the client does not read."""
        ...

    def send(self, content: bytes) -> bool:
        """Write bytes, if it is not gone; whether nothing that was written is left to leave."""
        ...

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be written."""
        ...

    def resume(self) -> None:
        """The request takes bytes of its body again."""
        ...

    def pause(self) -> None:
        """The request takes no more bytes of its body for now."""
        ...

    def complete(self, request: ClientRequest) -> None:
        """The answer has been written to its end."""
        ...


class ClientRequest:
    """A request whose head is complete.

    Attributes:
        path: as sent, without the query.
        query: as sent, without its question mark.
        headers: all of them, in order; names in lower case.
        fields: the same by name, so that no part of the path goes through all of them again.
        facts: what was made out of the head before, if another request had the same.
        status: of the answer, 0 before one was begun.
        keeps_alive: the connection may serve another request afterwards.
        body_complete: the whole body has been received.
        waited_us: how long the client was waited for: it sent its body, or it did not read.
    """

    __slots__ = (
        "_asked",
        "_chunked",
        "_chunks",
        "_expects",
        "_failure",
        "_link",
        "_parts",
        "_size",
        "_unsent",
        "_waiter",
        "body_complete",
        "facts",
        "fields",
        "headers",
        "keeps_alive",
        "method",
        "path",
        "query",
        "status",
        "waited_us",
    )

    def __init__(
        self,
        link: Link,
        method: bytes,
        path: bytes,
        headers: Headers,
        *,
        chunks: bool,
        keeps_alive: bool,
        query: bytes = b"",
        fields: Fields | None = None,
        facts: HeadFacts | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.fields: Fields = dict(headers) if fields is None else fields
        self.facts = HeadFacts() if facts is None else facts
        self.status = 0
        self.keeps_alive = keeps_alive
        self.body_complete = False
        self.waited_us = 0
        self._link = link
        self._chunks = chunks
        self._expects = chunks and self.fields.get(b"expect", b"").lower() == b"100-continue"
        self._failure: ClientLeft | TooSlow | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._asked = False
        self._waiter: asyncio.Future[None] | None = None
        self._unsent = b""  # the head of an answer that was begun
        self._chunked = False

    # The application's side.

    def all_of(self, name: bytes) -> list[bytes]:
        """Every value of a header, in order."""
        if name not in self.fields:
            return []
        if len(self.fields) == len(self.headers):
            return [self.fields[name]]
        return [value for known, value in self.headers if known == name]

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body.

        Raises:
            TooLarge: it is longer than the limit.
            ClientLeft: the connection was closed before its end.
            TooSlow: it did not arrive in time.
        """
        self._asked = True
        if not self.body_complete:
            if self._expects and not self._size:
                self._link.send(CONTINUE)
            self._expects = False
            self._link.resume()
            since_us = time.monotonic_ns() // 1000
            while not self.body_complete and self._size <= limit_bytes:
                if self._failure is not None:
                    raise anew(self._failure)
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            self.waited_us += time.monotonic_ns() // 1000 - since_us
        if self._size > limit_bytes:
            self._parts.clear()
            raise TooLarge(f"The request body is larger than {limit_bytes} bytes.")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    async def part(self) -> bytes:
        """The next bytes of the body, empty at its end; the client waits while nobody asks.

        Raises:
            ClientLeft: the connection was closed before the end.
            TooSlow: nothing arrived in time.
        """
        if self._expects and not self._parts and not self.body_complete:
            self._link.send(CONTINUE)
        self._expects = False
        while not self._parts and not self.body_complete:
            if self._failure is not None:
                raise anew(self._failure)
            self._link.pause()  # its deadline begins anew with every part that is waited for
            self._link.resume()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        return part

    def answer(self, status: int, headers: Headers, content: bytes) -> None:
        """Send a whole answer. Framing headers are set here."""
        self.answer_with(status, lines_of(headers), content)

    def answer_with(self, status: int, lines: bytes, content: bytes) -> None:
        """As `answer`, with the lines of its head."""
        head = self._head(status, lines)
        if status in _NO_BODY:
            self._link.send(head + b"\r\n")
        elif self.method == b"HEAD":
            self._link.send(b"%bcontent-length: %d\r\n\r\n" % (head, len(content)))
        else:
            self._link.send(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(content), content))
        self._link.complete(self)

    def begin(self, status: int, headers: Headers) -> None:
        """Begin an answer of unknown length; its head leaves with the first content."""
        self.begin_with(status, lines_of(headers))

    def begin_with(self, status: int, lines: bytes) -> None:
        """As `begin`, with the lines of its head."""
        self._chunked = self._chunks
        head = self._head(status, lines)
        self._unsent = head + (b"transfer-encoding: chunked\r\n\r\n" if self._chunked else b"\r\n")

    async def write(self, content: bytes) -> None:
        """Send more of an answer that was begun; waits while the client does not read."""
        if self._link.blocked:
            await self._drained()
        if content:
            self._link.send(self._taken_head() + self._framed(content))

    def push(self, content: bytes) -> bool:
        """As `write`, for a client that is known to read; whether everything has left."""
        if self._chunked and not self._unsent:  # all but the first: once per chunk of every stream
            return self._link.send(b"%x\r\n%b\r\n" % (len(content), content))
        return self._link.send(self._taken_head() + self._framed(content))

    async def finish(self, content: bytes = b"") -> None:
        """Send the last of an answer that was begun."""
        if self._link.blocked:
            await self._drained()
        last = self._framed(content) if content else b""
        self._link.send(self._taken_head() + last + (b"0\r\n\r\n" if self._chunked else b""))
        self._link.complete(self)

    # The connection's side.

    def receive(self, part: bytes) -> None:
        """More of the body; dropped once the request was answered."""
        if self.status:
            return
        self._size += len(part)
        self._parts.append(part)
        if self._waiter is not None:
            self._wake()
        elif not self._asked and self._size > HIGH_WATER_BYTES:
            self._link.pause()

    def receive_end(self) -> None:
        """The body is complete."""
        self.body_complete = True
        self._wake()

    def refuse_body(self, failure: ClientLeft | TooSlow) -> None:
        """The rest of the body will not come."""
        self._failure = failure
        self._wake()

    async def _drained(self) -> None:
        since_us = time.monotonic_ns() // 1000
        await self._link.drained()
        self.waited_us += time.monotonic_ns() // 1000 - since_us

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _head(self, status: int, lines: bytes) -> bytes:
        if not self.body_complete and (self._expects or status == _TOO_LARGE):
            self.keeps_alive = False  # whether the rest of the body comes, nobody waits for it
        self.status = status
        first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        return first + lines if self.keeps_alive else first + lines + b"connection: close\r\n"

    def _taken_head(self) -> bytes:
        head, self._unsent = self._unsent, b""
        return head

    def _framed(self, content: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(content), content) if self._chunked else content
