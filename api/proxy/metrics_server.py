"""The counters of a process, on a listener that customers do not reach.

Decides: what it answers (`GET /metrics`, nothing else; 500 if the counters cannot be told) and
which port it takes: the one that is set, or the first free one behind it, since every process of a
host has counters of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from billing.errors import ConfigurationError

log = logging.getLogger("steelyard.proxy")

PORTS: Final = 16
DEADLINE_SECONDS: Final = 5
_HEAD_BYTES: Final = 8 << 10
_PLAIN: Final = b"text/plain; version=0.0.4; charset=utf-8"


@contextlib.asynccontextmanager
async def serving_metrics(
    render: Callable[[], bytes], host: str, port: int, *, ports: int = PORTS
) -> AsyncGenerator[int | None]:
    """Serve inside a block; yields the port that was taken.

    Args:
        render: the counters in Prometheus' text format.
        port: 0 serves nothing, and None is yielded.
        ports: how many are tried, from that one on.

    Raises:
        ConfigurationError: neither the port nor any of the next ones can be listened on.
    """
    if not port:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(
                OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(_answer(head, render))
                    await writer.drain()
        finally:
            writer.close()

    server, taken = await _listen(answer, host, range(port, min(port + ports, 1 << 16)))
    try:
        yield taken
    finally:
        server.close()


async def _listen(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str,
    ports: range,
) -> tuple[asyncio.Server, int]:
    failure = ""
    for candidate in ports:
        try:
            return await asyncio.start_server(answer, host, candidate, limit=_HEAD_BYTES), candidate
        except OSError as error:
            failure = error.strerror or type(error).__name__
            if error.errno != errno.EADDRINUSE:
                break
    raise ConfigurationError(
        f"The proxy's metrics cannot be served on {host} port {ports[0]}: {failure}.",
        field="STEELYARD_PROXY_METRICS_PORT",
        remedy="Choose another port, or 0 for no metrics.",
    )


def _answer(head: bytes, render: Callable[[], bytes]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _message(b"404 Not Found", b"")
    if method != b"GET":
        return _message(b"405 Method Not Allowed", b"", b"allow: GET\r\n")
    try:
        return _message(b"200 OK", render())
    except Exception as error:  # noqa: BLE001  # without a word it would look like a dead process
        log.error("counters cannot be told: %s", type(error).__name__)  # noqa: TRY400  # a message could carry values
        return _message(b"500 Internal Server Error", b"")


def _message(status: bytes, content: bytes, more: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n%b\r\n"
    return head % (status, _PLAIN, len(content), more) + content
