"""A blind TCP relay on uvloop: the floor for any proxy that is written in Python.

It copies bytes both ways and understands nothing. `main(port, to_port)` runs it.
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop


class _Side(asyncio.Protocol):
    """One side of a relayed connection; `other` is the transport of the other side."""

    def __init__(self) -> None:
        self.other: asyncio.Transport | None = None
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early.append(data)
        else:
            self.other.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()


class _Client(_Side):
    def __init__(self, to_port: int) -> None:
        super().__init__()
        self._to_port = to_port
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        transport, side = await loop.create_connection(_Side, "127.0.0.1", self._to_port)
        side.other = self.transport
        self.other = transport
        for data in self.early:
            transport.write(data)
        self.early.clear()


async def _serve(port: int, to_port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(to_port), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main(port: int, to_port: int) -> None:
    """Relay until killed."""
    uvloop.run(_serve(port, to_port))
