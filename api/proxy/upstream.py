"""The client of the backends: pooled connections, own request heads, deadlines.

Decides: which connection a request takes, what head it gets, when a backend is given up. A
request is sent again in one case only: it went out on a pooled connection that the backend had
closed before a byte of an answer came. Does not decide what is billed.

Why not a general HTTP client: they cost three to thirty times the CPU of this one per request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from api.proxy.limits import Limits
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend
from billing.errors import ConfigurationError, UpstreamTimeout, UpstreamUnavailable

SWEEP_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where a backend listens, and the fixed part of the heads sent there."""

    host: str
    port: int
    tls: bool
    prefix: bytes
    fixed_head: bytes


class _Pool:
    """Connections to one backend; unused ones newest first."""

    __slots__ = ("idle", "origin")

    def __init__(self, origin: _Origin) -> None:
        self.origin = origin
        self.idle: list[UpstreamConnection] = []


class Upstream:
    """All backends, for one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._pools: dict[Backend, _Pool] = {}
        self._busy: set[UpstreamConnection] = set()
        self._tls: ssl.SSLContext | None = None
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def dispatch(
        self,
        backend: Backend,
        path: str,
        body: bytes,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        attach: Callable[[UpstreamConnection], None],
    ) -> UpstreamConnection:
        """Send a request and wait for the head of its answer.

        Args:
            headers: sent besides the fixed ones; values come from a parsed request.
            attach: told of the connection before the request is written, so that a client that
                leaves can have it closed at once.

        Returns:
            the connection, to be read and then given back with `release`.

        Raises:
            UpstreamUnavailable: no connection, or it broke before the head.
            UpstreamTimeout: not connected or answered within the deadline.
        """
        pool = self._pool(backend)
        request = _request(pool.origin, path, body, headers)
        while True:
            connection = self._idle(pool) or await self._connect(pool)
            self._busy.add(connection)
            attach(connection)
            connection.begin(*request)
            try:
                await connection.head()
            except UpstreamUnavailable:
                self._busy.discard(connection)
                stale = connection.used > 1 and not connection.answered and not connection.aborted
                connection.abort()
                if not stale:
                    raise
                continue
            except BaseException:
                self._busy.discard(connection)
                connection.abort()
                raise
            return connection

    def release(self, backend: Backend, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer was read to its end; close any other."""
        self._busy.discard(connection)
        pool = self._pools.get(backend)
        if (
            pool is None
            or not connection.reusable
            or not connection.ended
            or connection.closed
            or len(pool.idle) >= self._limits.pool_size
        ):
            connection.abort()
            return
        connection.quiet_since = self._loop.time()
        pool.idle.append(connection)

    def close(self) -> None:
        """Close every connection."""
        self._sweeper.cancel()
        for pool in self._pools.values():
            for connection in pool.idle:
                connection.abort()
            pool.idle.clear()
        for connection in list(self._busy):
            connection.abort()
        self._busy.clear()

    def _pool(self, backend: Backend) -> _Pool:
        pool = self._pools.get(backend)
        if pool is None:
            pool = self._pools[backend] = _Pool(_origin(backend))
        return pool

    def _idle(self, pool: _Pool) -> UpstreamConnection | None:
        while pool.idle:
            connection = pool.idle.pop()
            if connection.reusable and not connection.closed:
                return connection
        return None

    async def _connect(self, pool: _Pool) -> UpstreamConnection:
        origin = pool.origin
        try:
            async with asyncio.timeout(self._limits.connect_ms / 1000):
                _, connection = await self._loop.create_connection(
                    lambda: UpstreamConnection(self._loop),
                    origin.host,
                    origin.port,
                    ssl=self._tls_context() if origin.tls else None,
                )
        except TimeoutError:
            raise UpstreamTimeout("The inference backend cannot be reached in time.") from None
        except OSError:
            raise UpstreamUnavailable("The inference backend cannot be reached.") from None
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _sweep(self) -> None:
        """Enforce the deadlines of all connections with one timer instead of one each."""
        now = self._loop.time()
        first_byte = self._limits.first_byte_ms / 1000
        stalled = self._limits.stalled_ms / 1000
        for connection in list(self._busy):
            allowed = first_byte if connection.waits_for_first else stalled
            if now - connection.quiet_since > allowed and not connection.paused:
                connection.expire()
        oldest = now - self._limits.pool_idle_ms / 1000
        for backend, pool in list(self._pools.items()):
            for connection in pool.idle:
                if connection.quiet_since < oldest:
                    connection.abort()
            pool.idle = [kept for kept in pool.idle if not kept.closed]
            if not pool.idle and not self._busy:
                del self._pools[backend]
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)


def _origin(backend: Backend) -> _Origin:
    """Read a backend's address.

    Raises:
        ConfigurationError: not an http or https URL with a host.
    """
    try:
        url = urlsplit(backend.base_url)
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        url, port = urlsplit(""), 0
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ConfigurationError(
            "The address of an inference backend is not a usable URL.",
            field="base_url",
            remedy="Write it as http://host:port.",
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    authority = host if url.port is None else f"{host}:{port}"
    fixed = [
        f" HTTP/1.1\r\nhost: {authority}\r\n",
        "content-type: application/json\r\naccept-encoding: identity\r\n",
    ]
    if backend.api_key is not None:
        fixed.append(f"authorization: Bearer {backend.api_key}\r\n")
    return _Origin(
        host=url.hostname,
        port=port,
        tls=url.scheme == "https",
        # Addresses are often written with the /v1 that every route begins with.
        prefix=url.path.rstrip("/").removesuffix("/v1").encode("ascii", "replace"),
        fixed_head="".join(fixed).encode("latin-1", "replace"),
    )


def _request(
    origin: _Origin, path: str, body: bytes, headers: Sequence[tuple[bytes, bytes]]
) -> tuple[bytes, bytes]:
    head = [b"POST ", origin.prefix, path.encode("ascii"), origin.fixed_head]
    for name, value in headers:
        head += [name, b": ", value, b"\r\n"]
    head.append(b"content-length: %d\r\n\r\n" % len(body))
    return b"".join(head), body
