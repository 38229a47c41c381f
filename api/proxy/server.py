"""Run the data plane on uvicorn, and stop it without losing a token.

Decides: the server's settings and the order of a stop: admit nothing, finish open streams up to
a deadline, cut the rest and bill what they delivered, close the journal last.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from typing import cast

import uvicorn

from api.proxy.app import Proxy
from api.proxy.client_connection import ClientConnection, connection_class

SWEEP_TICKS = 5  # of uvicorn's 100 ms


class _Server(uvicorn.Server):
    """uvicorn's server with our sweep and our stop."""

    def __init__(self, config: uvicorn.Config, app: Proxy) -> None:
        super().__init__(config)
        self._proxy = app

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop in order on SIGTERM and SIGINT and then return, so that the caller can clean up
        too; uvicorn would raise the signal again."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Begin an orderly stop."""
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("ClientConnection", connection).sweep(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._proxy.drain()
        await super().shutdown(sockets)
        await self._proxy.close()


def _server(app: Proxy, host: str, port: int) -> _Server:
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        interface="asgi3",
        http=connection_class(app.limits),
        ws="none",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=app.limits.idle_ms // 1000,
        timeout_graceful_shutdown=5,
        backlog=2048,
    )
    return _Server(config, app)


async def serve(
    app: Proxy, host: str, port: int, *, on_ready: Callable[[int], None] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order and close the app's journal.

    Args:
        port: 0 picks a free one.
        on_ready: told the port once the server listens.
    """
    server = _server(app, host, port)
    running = asyncio.create_task(server.serve())
    if on_ready is not None:
        await _until_started(server, running)
        if server.started:
            on_ready(_port(server))
    await running


@contextlib.asynccontextmanager
async def serving(app: Proxy, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[int]:
    """Serve inside a block; yields the port. The block's end stops the server in order."""
    server = _server(app, host, port)
    running = asyncio.create_task(server.serve())
    try:
        await _until_started(server, running)
        yield _port(server)
    finally:
        server.stop()
        await running


async def _until_started(server: _Server, running: asyncio.Task[None]) -> None:
    while not server.started and not running.done():  # noqa: ASYNC110  # uvicorn has no event
        await asyncio.sleep(0.005)
    if running.done():
        await running


def _port(server: _Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])
