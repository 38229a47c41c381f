"""The requests to backends that one request about stored objects leads to.

Decides: that they end when their owner says so, that bytes pass both ways as they come, and what a
client never sees of a backend's answer. Nothing is kept: content waits for whoever reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.proxy.answer_head import concerns_us, passed_headers
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.headers import Headers, lines_of
from api.proxy.openai_errors import TooLarge, json_headers
from api.proxy.telemetry.stored_course import StoredCourse
from api.proxy.telemetry.stored_spans import StoredCall
from api.proxy.upstream import Upstream
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend
from billing.errors import NotFound, UpstreamError, UpstreamUnavailable

_JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """A backend's whole answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def good(self) -> bool:
        """The backend did what it was asked."""
        return 200 <= self.status < 300


class StoredCalls:
    """Those of one request.

    Attributes:
        shown_id: id of the request as clients see it.
    """

    def __init__(
        self,
        upstream: Upstream,
        request: ClientRequest,
        client: ClientConnection,
        shown_id: bytes,
        course: StoredCourse,
    ) -> None:
        self._upstream = upstream
        self._request = request
        self._client = client
        self.shown_id = shown_id
        self._course = course
        self._open: set[UpstreamConnection] = set()
        self._ended = False

    def end(self) -> None:
        """Close what is under way and begin nothing more: nobody waits for it."""
        self._ended = self._course.abandoned = True
        for connection in list(self._open):
            connection.abort()

    async def whole(
        self,
        backend: Backend,
        method: str,
        path: str,
        *,
        limit_bytes: int,
        body: bytes = b"",
        query: bytes = b"",
    ) -> Answer:
        """A backend's answer, once it is complete.

        Raises:
            UpstreamError: there is none, or it is not the client's to see.
        """
        async with self._asked(backend, method, path, body, query) as connection:
            return await _read(connection, limit_bytes)

    async def relay(self, backend: Backend, method: str, path: str, *, query: bytes) -> None:
        """Relay a backend's answer as it comes.

        Raises:
            UpstreamError: there is none, or it is not the client's to see; or it broke off, and
                the client was cut.
        """
        try:
            async with self._asked(backend, method, path, b"", query) as connection:
                first = await connection.read()
                headers = passed_headers(connection.headers, self.shown_id)
                if connection.ended:
                    self._request.answer(connection.status, headers, first)
                    return
                self._request.begin(connection.status, headers)
                await self._request.write(first)
                while part := await connection.read():
                    await self._request.write(part)
                await self._request.finish()
        except UpstreamError:
            if self._request.status:
                self._client.cut(flush=True)  # so that the client sees that it broke off
            raise

    async def parts(self, backend: Backend, path: str) -> AsyncGenerator[bytes]:
        """The content behind a path, as it comes.

        Raises:
            NotFound: the backend no longer has it.
            UpstreamError: it broke off, or there is none.
        """
        async with self._asked(backend, "GET", path, b"", b"") as connection:
            if connection.status == 404:
                raise NotFound("The inference backend no longer has the file.")
            if connection.status != 200:
                raise UpstreamError("The inference backend does not have the file.")
            while part := await connection.read():
                yield part

    async def upload(
        self,
        backend: Backend,
        path: str,
        *,
        content_type: bytes,
        length: int | None,
        limit_bytes: int,
        answer_bytes: int,
    ) -> Answer:
        """Pass the client's body on as it comes.

        Args:
            length: of the body; None where the client sends it in chunks.
            limit_bytes: of the body; what is longer is broken off, so that the backend keeps
                nothing of it.

        Raises:
            TooLarge, TooSlow, ClientLeft: of the client's body.
            UpstreamError: there is no answer, or it is not the client's to see.
        """
        with self._course.call(backend, "POST", path) as call:
            connection = await self._upstream.begin(
                backend,
                path,
                content_type=content_type,
                length=length,
                lines=self._lines(call),
                attach=self._attach,
            )
            answering = asyncio.create_task(connection.head())
            try:
                await self._send(connection, answering, chunked=length is None, limit=limit_bytes)
                call.status = await answering
                return await _read(connection, answer_bytes)
            finally:
                answering.cancel()
                self._open.discard(connection)
                connection.abort()
                self._upstream.release(backend, connection)

    async def _send(
        self,
        connection: UpstreamConnection,
        answering: asyncio.Task[int],
        *,
        chunked: bool,
        limit: int,
    ) -> None:
        """Pass the client's body on until its end, or until the backend wants no more of it."""
        sent = 0
        while part := await self._part(answering):
            sent += len(part)
            if sent > limit:
                raise TooLarge(f"The file is larger than {limit} bytes.")
            await connection.send(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked and not answering.done():
            await connection.send(b"0\r\n\r\n")

    async def _part(self, answering: asyncio.Task[int]) -> bytes:
        """More of the client's body; empty at its end, and once the backend wants no more of it,
        which it may say, or break, while the client is silent."""
        arriving = asyncio.create_task(self._request.part())
        try:
            await asyncio.wait({arriving, answering}, return_when=asyncio.FIRST_COMPLETED)
            return b"" if answering.done() else arriving.result()
        finally:
            arriving.cancel()

    def answer(self, answer: Answer) -> None:
        """Pass a whole answer on, unchanged."""
        headers = passed_headers(answer.headers, self.shown_id)
        self._request.answer(answer.status, headers, answer.body)

    def answer_json(self, content: bytes) -> None:
        """An answer of ours."""
        headers = json_headers(200, (b"x-steelyard-request-id", self.shown_id))
        self._request.answer(200, headers, content)

    @asynccontextmanager
    async def _asked(
        self, backend: Backend, method: str, path: str, body: bytes, query: bytes
    ) -> AsyncGenerator[UpstreamConnection]:
        target = f"{path}?{query.decode('ascii')}" if query else path
        with self._course.call(backend, method, path) as call:
            connection = await self._upstream.dispatch(
                backend,
                target,
                body,
                method=method.encode(),
                content_type=_JSON,
                lines=self._lines(call),
                attach=self._attach,
            )
            call.status = connection.status
            try:
                if concerns_us(connection.status):
                    raise UpstreamError("The inference backend does not serve this proxy.")
                yield connection
            finally:
                self._open.discard(connection)
                self._upstream.release(backend, connection)

    def _lines(self, call: StoredCall) -> bytes:
        return lines_of([(b"x-request-id", self.shown_id), *self._course.headers(call)])

    def _attach(self, connection: UpstreamConnection | None) -> None:
        if connection is None:
            return
        self._open.add(connection)
        if self._ended:
            connection.abort()


async def _read(connection: UpstreamConnection, limit_bytes: int) -> Answer:
    if concerns_us(connection.status):
        raise UpstreamError("The inference backend does not serve this proxy.")
    parts: list[bytes] = []
    size = 0
    while part := await connection.read():
        size += len(part)
        if size > limit_bytes:
            raise UpstreamUnavailable("The inference backend's answer is too large.")
        parts.append(part)
    return Answer(connection.status, connection.headers, b"".join(parts))
