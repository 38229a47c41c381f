"""An engine that answers every request with the bytes that a test has written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """An answer: `pieces` are written one by one, as chunks unless a length is told."""

    pieces: tuple[bytes, ...]
    status: int = 200
    content_type: str = "application/json"
    chunked: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    broken: bool = False
    """Close after the last piece, in the middle of the body."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedEngine:
    """A server; `script` holds for every request from now on.

    Attributes:
        decide: gives the script for a request in place of `script`.
        left: how many answers a client did not wait for.
    """

    def __init__(self) -> None:
        self.script = Script(pieces=(b"{}",))
        self.decide: Callable[[Seen], Script] | None = None
        self.left = 0
        self.seen: list[Seen] = []
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError):
                while await self._serve(reader, writer):
                    pass
        except ConnectionError:
            self.left += 1
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def drop_connections(self) -> None:
        """Close every connection, and wait until it is gone."""
        for writer in list(self._writers):
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.strip().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = line.split()
        self.seen.append(Seen(method, path, headers, body))
        script = self.script if self.decide is None else self.decide(self.seen[-1])
        chunked = script.chunked or script.broken
        framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(script.body)}"
        told = "".join(f"{name}: {value}\r\n" for name, value in script.headers)
        writer.write(
            f"HTTP/1.1 {script.status} X\r\ncontent-type: {script.content_type}\r\n"
            f"{told}{framing}\r\n\r\n".encode()
        )
        for piece in script.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(0.001 if chunked else 0)
        if script.broken:
            return False
        writer.write(b"0\r\n\r\n" if chunked else b"")
        await writer.drain()
        return True


@asynccontextmanager
async def scripted_engine() -> AsyncIterator[ScriptedEngine]:
    """Serve inside the block."""
    engine = ScriptedEngine()
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, limit=1 << 26)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await engine.drop_connections()


@contextmanager
def in_thread() -> Iterator[ScriptedEngine]:
    """Serve inside the block, for tests that run no loop."""
    started: Future[tuple[ScriptedEngine, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        async with scripted_engine() as engine:
            over = asyncio.Event()
            started.set_result((engine, asyncio.get_running_loop(), over))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    engine, loop, over = started.result(timeout=20)
    try:
        yield engine
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(timeout=20)
