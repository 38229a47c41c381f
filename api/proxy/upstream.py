"""The client of the backends: pooled connections, own request heads, deadlines.

Decides: which connection a request takes, what head it gets, when a backend is given up. A
request is sent again in one case only: it went out on a pooled connection that the backend had
closed before a byte of an answer came. Does not decide what is billed.

Why not a general HTTP client: they cost three to thirty times the CPU of this one per request.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from api.proxy.headers import lines_of
from api.proxy.limits import Limits
from api.proxy.patience import done_within
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend
from billing.errors import ConfigurationError, UpstreamTimeout, UpstreamUnavailable

SWEEP_SECONDS = 0.25
JOINED_BYTES = 16 << 10
"""Bodies up to this are copied behind their head: one buffer is written faster than two."""

ASK_US = 2_000_000
"""How long a backend may take to say whether it works."""

_Address = tuple[str, str | None]
"""URL and credential: what connections of a backend have in common, whatever else is said of it."""


@dataclass(slots=True)
class _Deadlines:
    """Of one exchange: the first byte of its body by an instant (monotonic µs), then no longer
    silence than `stalled_ms`."""

    first_by_us: int
    stalled_ms: int


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
        self._pools: dict[_Address, _Pool] = {}
        self._busy: dict[UpstreamConnection, _Deadlines] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)

    async def dispatch(
        self,
        backend: Backend,
        path: str,
        body: bytes,
        *,
        method: bytes = b"POST",
        content_type: bytes = b"application/json",
        lines: bytes = b"",
        attach: Callable[[UpstreamConnection | None], None],
        first_by_us: int | None = None,
    ) -> UpstreamConnection:
        """Send a request and wait for the head of its answer.

        Args:
            lines: of the head, besides the fixed ones; values come from a parsed request.
            attach: told of the connection before the request is written, so that a client that
                leaves can have it closed at once; None if it turned out to be a stale one.
            first_by_us: monotonic µs by which the body must have begun; the backend's own
                deadline ends no later.

        Returns:
            the connection, to be read and then given back with `release`.

        Raises:
            UpstreamUnavailable: no connection, or it broke before the head.
            UpstreamTimeout: not connected or answered within the deadline.
        """
        pool = self._pool(backend)
        request = _request(pool.origin, method, path, body, content_type=content_type, lines=lines)
        own_us = now_us() + 1000 * (backend.first_byte_ms or self._limits.first_byte_ms)
        deadlines = _Deadlines(
            own_us if first_by_us is None else min(own_us, first_by_us),
            backend.stalled_ms or self._limits.stalled_ms,
        )
        while True:
            connection = self._idle(pool) or await self._connect(pool, backend)
            self._busy[connection] = deadlines
            attach(connection)
            connection.begin(*request)
            try:
                await connection.head()
            except UpstreamUnavailable:
                self._busy.pop(connection, None)
                stale = connection.used > 1 and not connection.answered and not connection.aborted
                connection.abort()
                if not stale:
                    raise
                attach(None)
                continue
            except BaseException:
                self._busy.pop(connection, None)
                connection.abort()
                raise
            return connection

    async def begin(
        self,
        backend: Backend,
        path: str,
        *,
        content_type: bytes,
        length: int | None,
        lines: bytes,
        attach: Callable[[UpstreamConnection | None], None],
    ) -> UpstreamConnection:
        """Begin a POST whose body is sent in parts, on a connection that nobody has used.

        Args:
            length: of the body; None: it is sent in chunks, framed by the caller.

        Raises:
            UpstreamUnavailable, UpstreamTimeout: no connection.
        """
        pool = self._pool(backend)
        connection = await self._connect(pool, backend)
        first_ms = backend.first_byte_ms or self._limits.first_byte_ms
        self._busy[connection] = _Deadlines(
            now_us() + 1000 * first_ms, backend.stalled_ms or self._limits.stalled_ms
        )
        attach(connection)
        connection.begin(
            _opening(pool.origin, path, content_type=content_type, length=length, lines=lines)
        )
        return connection

    async def ask(self, backend: Backend, path: str) -> int:
        """The status of a GET, on a connection of its own, whose body nobody reads.

        Raises:
            UpstreamError: no answer.
        """
        pool = self._pool(backend)
        connection = await self._connect(pool, backend)
        self._busy[connection] = _Deadlines(now_us() + ASK_US, 1)
        try:
            connection.begin(*_request(pool.origin, b"GET", path))
            return await connection.head()
        finally:
            self._busy.pop(connection, None)
            connection.abort()

    def release(self, backend: Backend, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer was read to its end; close any other."""
        self._busy.pop(connection, None)
        pool = self._pools.get((backend.base_url, backend.api_key))
        if (
            pool is None
            or not connection.reusable
            or not connection.ended
            or connection.closed
            or len(pool.idle) >= self._limits.pool_size
        ):
            connection.abort()
            return
        connection.quiet_since_us = now_us()
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
        address = (backend.base_url, backend.api_key)
        pool = self._pools.get(address)
        if pool is None:
            pool = self._pools[address] = _Pool(_origin(backend))
        return pool

    def _idle(self, pool: _Pool) -> UpstreamConnection | None:
        while pool.idle:
            connection = pool.idle.pop()
            if connection.reusable and not connection.closed:
                return connection
        return None

    async def _connect(self, pool: _Pool, backend: Backend) -> UpstreamConnection:
        origin = pool.origin
        began_us = now_us()
        connecting = self._loop.create_task(
            self._loop.create_connection(
                lambda: UpstreamConnection(self._loop),
                origin.host,
                origin.port,
                ssl=self._tls_context() if origin.tls else None,
            )
        )
        try:
            if not await done_within(connecting, backend.connect_ms or self._limits.connect_ms):
                raise TimeoutError
            _, connection = connecting.result()
        except TimeoutError:
            connecting.cancel()
            raise UpstreamTimeout("The inference backend cannot be reached in time.") from None
        except (OSError, UnicodeError):  # the second: a name with a label that no resolver takes
            raise UpstreamUnavailable("The inference backend cannot be reached.") from None
        except BaseException:
            if not connecting.cancel() and connecting.exception() is None:
                connecting.result()[1].abort()  # nobody has it
            raise
        connection.connecting_us = now_us() - began_us
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _sweep(self) -> None:
        """Enforce the deadlines of all connections with one timer instead of one each."""
        at_us = now_us()
        for connection, deadlines in list(self._busy.items()):
            if connection.waits_for_first:
                late = at_us > deadlines.first_by_us
            else:
                late = at_us - connection.quiet_since_us > deadlines.stalled_ms * 1000
            if late and not connection.paused:
                connection.expire()
        oldest_us = at_us - self._limits.pool_idle_ms * 1000
        for address, pool in list(self._pools.items()):
            for connection in pool.idle:
                if connection.quiet_since_us < oldest_us:
                    connection.abort()
            pool.idle = [kept for kept in pool.idle if not kept.closed]
            if not pool.idle and not self._busy:
                del self._pools[address]
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
    fixed = [f" HTTP/1.1\r\nhost: {authority}\r\naccept-encoding: identity\r\n"]
    if backend.api_key is not None:
        fixed.append(f"authorization: Bearer {backend.api_key}\r\n")
        # Anthropic's own servers take keys by this name only.
        fixed.append(f"x-api-key: {backend.api_key}\r\n" if backend.engine == "anthropic" else "")
    return _Origin(
        host=url.hostname,
        port=port,
        tls=url.scheme == "https",
        # Addresses are often written with the /v1 that every route begins with.
        prefix=url.path.rstrip("/").removesuffix("/v1").encode("ascii", "replace"),
        fixed_head="".join(fixed).encode("latin-1", "replace"),
    )


def _request(
    origin: _Origin,
    method: bytes,
    path: str,
    body: bytes = b"",
    *,
    content_type: bytes = b"",
    lines: bytes = b"",
) -> tuple[bytes, ...]:
    head = b"%b %b%b%b%b" % (method, origin.prefix, path.encode("ascii"), origin.fixed_head, lines)
    if method == b"POST" or body:
        head += b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
    if len(body) > JOINED_BYTES:
        return head + b"\r\n", body
    return (b"%b\r\n%b" % (head, body),)


def _opening(
    origin: _Origin,
    path: str,
    *,
    content_type: bytes,
    length: int | None,
    lines: bytes,
) -> bytes:
    framing = (
        (b"transfer-encoding", b"chunked")
        if length is None
        else (b"content-length", b"%d" % length)
    )
    lines += lines_of([(b"content-type", content_type), framing])
    head = b"POST ", origin.prefix, path.encode("ascii"), origin.fixed_head, lines, b"\r\n"
    return b"".join(head)


def now_us() -> int:
    """Monotonic µs, for deadlines and durations."""
    return time.monotonic_ns() // 1000
