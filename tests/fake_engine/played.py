"""An engine that plays recorded bytes: so many of them, and then breaks off or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n"
    b"connection: keep-alive\r\n\r\n"
)


@dataclass(slots=True)
class PlayedEngine:
    """A server; what it plays holds for every request from now on.

    Attributes:
        wire: bytes of the answer's body.
        breaks: it closes behind them without an end; otherwise it says nothing more.
        ends: it ends the body behind them in order.
        left: how many clients closed first.
    """

    wire: bytes = b""
    breaks: bool = False
    ends: bool = False
    piece: int = 1 << 20
    content_type: bytes = b"text/event-stream"
    port: int = 0
    left: int = 0
    bodies: list[bytes] = field(default_factory=list[bytes])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        self.bodies.append(await reader.readexactly(length))
        writer.write(HEAD % self.content_type)
        for start in range(0, len(self.wire), self.piece):
            piece = self.wire[start : start + self.piece]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        if self.breaks:
            writer.close()
            return False
        if self.ends:
            writer.write(b"0\r\n\r\n")
            return True
        await reader.read(1)
        self.left += 1
        return False


@asynccontextmanager
async def played_engine() -> AsyncIterator[PlayedEngine]:
    """A player on a port of its own."""
    engine = PlayedEngine()
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
