"""The engine on a socket: plain HTTP/1.1 by hand, so that it can break where a server would not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fake_engine.shapes import Behaviour, Events, whole


@dataclass(slots=True)
class Served:
    """One request as the engine saw it.

    Attributes:
        sent: bytes of its answer's body; tokens: generated tokens in them.
        ended: it was answered to the end.
        left: the client closed before that.
    """

    path: str
    headers: dict[str, str]
    text: bytes
    body: dict[str, Any]
    parts: list[bytes] = field(default_factory=list)
    tokens: int = 0
    ended: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)


class FakeEngine:
    """A server; `behaviour` holds for every request from now on.

    Attributes:
        decide: gives the behaviour for a request in place of `behaviour`.
        asked: paths of GETs, which are answered with 200 while it is `healthy`, else 503.
    """

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.decide: Callable[[Served], Behaviour] | None = None
        self.served: list[Served] = []
        self.asked: list[str] = []
        self.healthy = True
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def last(self) -> Served:
        return self.served[-1]

    def drop_connections(self) -> None:
        """Close every open connection, idle ones too."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def emptied(self) -> None:
        """Wait until every connection is gone."""
        for writer in list(self._writers):
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (one.partition(":") for one in fields)
                }
                if line.startswith("GET "):
                    self.asked.append(line.split()[1])
                    status = 200 if self.healthy else 503
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
                    continue
                text = await reader.readexactly(int(headers["content-length"]))
                served = Served(line.split()[1], headers, text, json.loads(text))
                self.served.append(served)
                if not await self._answer(served, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _answer(
        self, served: Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection can be used again."""
        behaviour = self.behaviour if self.decide is None else self.decide(served)
        watcher = asyncio.create_task(_watch(reader, served))
        self._tasks.add(watcher)
        try:
            if behaviour.hang:
                await served.left.wait()
                return False
            if behaviour.drops:
                return False
            if behaviour.informational:
                writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
            if served.body.get("stream") is True and behaviour.answer is None:
                alive = await self._stream(served, behaviour, writer)
            else:
                alive = await self._whole(served, behaviour, writer)
            served.ended = alive or behaviour.close_delimited
            return alive and not behaviour.close_delimited
        except ConnectionError:
            served.left.set()
            return False
        finally:
            watcher.cancel()
            self._tasks.discard(watcher)
            await asyncio.gather(watcher, return_exceptions=True)

    async def _whole(
        self, served: Served, behaviour: Behaviour, writer: asyncio.StreamWriter
    ) -> bool:
        body = whole(served.path, served.body, behaviour)
        await asyncio.sleep(behaviour.silent_ms / 1000)
        length = "" if behaviour.close_delimited else f"content-length: {len(body)}\r\n"
        head = f"HTTP/1.1 {behaviour.status} X\r\ncontent-type: application/json\r\n{length}"
        writer.write((head + _lines(behaviour) + "\r\n").encode("latin-1"))
        if behaviour.break_after is not None:
            writer.write(body[: len(body) // 2])
            await writer.drain()
            return False
        writer.write(body)
        await writer.drain()
        if behaviour.close_delimited:
            writer.close()
        served.parts.append(body)
        return True

    async def _stream(
        self, served: Served, behaviour: Behaviour, writer: asyncio.StreamWriter
    ) -> bool:
        framing = "" if behaviour.close_delimited else "transfer-encoding: chunked\r\n"
        head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n{framing}"
        writer.write((head + _lines(behaviour) + "\r\n").encode("latin-1"))
        await asyncio.sleep(behaviour.silent_ms / 1000)
        if behaviour.headless:
            await writer.drain()
            return False
        contents = 0
        events = () if behaviour.empty else Events(served.path, served.body, behaviour).all()
        for piece in events:
            if piece.tokens and contents == behaviour.break_after:
                return False
            contents += piece.tokens
            size = behaviour.cut or len(piece.text)
            for start in range(0, len(piece.text), size):
                part = piece.text[start : start + size]
                if served.left.is_set():
                    return False
                writer.write(
                    part if behaviour.close_delimited else b"%x\r\n%b\r\n" % (len(part), part)
                )
                await writer.drain()
                served.parts.append(part)
                if behaviour.cut:
                    await asyncio.sleep(0)
            served.tokens += piece.tokens
            if piece.tokens and behaviour.pace_ms:
                await asyncio.sleep(behaviour.pace_ms / 1000)
        if behaviour.close_delimited:
            writer.close()
        else:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return True


async def _watch(reader: asyncio.StreamReader, served: Served) -> None:
    """A client that sends nothing while it waits and then closes has left."""
    while not reader.at_eof():
        await asyncio.sleep(0.005)
        if reader.exception() is not None:
            break
    served.left.set()


def _lines(behaviour: Behaviour) -> str:
    return "".join(f"{line}\r\n" for line in behaviour.headers)


@asynccontextmanager
async def fake_engine(port: int = 0) -> AsyncIterator[FakeEngine]:
    """Serve inside the block."""
    engine = FakeEngine()
    server = await asyncio.start_server(engine._connected, "127.0.0.1", port)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        engine.drop_connections()
        await engine.emptied()
