"""A TCP relay that can fall silent: what it takes is acknowledged, and nothing passes any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from billing.store.embedded.address import Endpoint


@dataclass(slots=True)
class SilentRelay:
    """Connections to a database server by another port.

    Attributes:
        silenced: how many connections have been; they stay open and pass nothing.
    """

    server: Endpoint
    port: int = 0
    silenced: int = 0
    _open: dict[asyncio.Task[None], asyncio.Event] = field(
        default_factory=dict["asyncio.Task[None]", asyncio.Event]
    )

    def silence(self) -> None:
        """Let nothing pass any more on the connections that are open now; later ones work."""
        for silent in self._open.values():
            self.silenced += not silent.is_set()
            silent.set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        silent = self._open[task] = asyncio.Event()
        to_server = await _connect(self.server)
        try:
            await asyncio.gather(
                _copy(reader, to_server[1], silent), _copy(to_server[0], writer, silent)
            )
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the test ends
        finally:
            del self._open[task]
            to_server[1].transport.abort()
            writer.transport.abort()

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._open)


async def _connect(server: Endpoint) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if server.socket_folder is None:
        return await asyncio.open_connection(server.host, server.port)
    path = server.socket_folder / f".s.PGSQL.{server.port}"
    return await asyncio.open_unix_connection(path)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event
) -> None:
    while content := await reader.read(65_536):
        if not silent.is_set():
            writer.write(content)
    writer.close()


@asynccontextmanager
async def silent_relay(to_server: Endpoint, port: int = 0) -> AsyncIterator[SilentRelay]:
    """Relay inside the block, in this event loop; port 0 picks a free one."""
    relay = SilentRelay(to_server)
    server = await asyncio.start_server(relay.connected, "127.0.0.1", port)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in relay.tasks():
            task.cancel()
        while relay.tasks():  # noqa: ASYNC110  # cancelled tasks have no common event
            await asyncio.sleep(0.01)
