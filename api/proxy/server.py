"""Listen for clients, and stop without losing a token.

Decides: the order of a stop: accept nothing, admit nothing, finish open streams up to a deadline,
cut the rest and bill what they delivered, close the journal last.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from api.interpreter import give_back_freed_memory
from api.proxy.app import Proxy
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.crowds import Crowds
from billing.errors import ConfigurationError

SWEEP_SECONDS = 0.5
BACKLOG = 2048
CLOSE_SECONDS = 5.0
"""How long connections may take to close once nothing is served any more."""


class Server:
    """Clients' connections of one process.

    Attributes:
        connections: all open ones.
        stopping: no connection serves another request.
    """

    def __init__(self, app: Proxy) -> None:
        self.limits = app.limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.stopping = False
        self._app = app
        self._listener: asyncio.Server | None = None
        self._stop = asyncio.Event()
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)
        self._crowds = Crowds()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._listener is not None
        return int(self._listener.sockets[0].getsockname()[1])

    async def listen(self, host: str, port: int, *, shared: bool = False) -> None:
        """Begin to accept connections; port 0 picks a free one, `shared` lets others listen too.

        Raises:
            ConfigurationError: the address cannot be used.
        """
        try:
            self._listener = await self.loop.create_server(
                lambda: ClientConnection(self), host, port, backlog=BACKLOG, reuse_port=shared
            )
        except OSError as error:
            self._sweeper.cancel()
            await self._app.close()
            raise ConfigurationError(
                f"The proxy cannot listen on {host} port {port}: {error.strerror}.",
                field="STEELYARD_PROXY_PORT",
                remedy="Stop what listens there, or choose another port.",
            ) from None

    def serve(self, request: ClientRequest, client: ClientConnection) -> Coroutine[Any, Any, None]:
        """Answer a request."""
        return self._app.serve(request, client)

    def stop(self) -> None:
        """Begin an orderly stop."""
        self._stop.set()

    async def until_stopped(self) -> None:
        """Wait for `stop`, then stop in order."""
        await self._stop.wait()
        if self._listener is not None:
            self._listener.close()
        self.stopping = True
        await self._app.drain()
        for connection in list(self.connections):
            connection.shut_down()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self.connections:  # noqa: ASYNC110  # no event: at stop only
                    await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.cut(flush=False)
        self._sweeper.cancel()
        await self._app.close()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.sweep(now)
        if self._crowds.gone(self._app.tally.in_flight, int(now * 1000)):
            self.loop.run_in_executor(None, give_back_freed_memory)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)


async def serve(
    app: Proxy,
    host: str,
    port: int,
    *,
    shared: bool = False,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order and close the app's journal.

    Args:
        port: 0 picks a free one.
        shared: other processes listen on the same port.
        on_ready: told the port once the server listens.
    """
    server = Server(app)
    loop = asyncio.get_running_loop()
    await server.listen(host, port, shared=shared)
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, server.stop)
    try:
        if on_ready is not None:
            on_ready(server.port)
        await server.until_stopped()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def serving(app: Proxy, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[int]:
    """Serve inside a block; yields the port. The block's end stops the server in order."""
    server = Server(app)
    await server.listen(host, port)
    try:
        yield server.port
    finally:
        server.stop()
        await server.until_stopped()
