"""Connections to the server, and how one is noticed whose other end is gone or stands still.

Decides: how soon the kernel gives up a peer that vanished without a word, for every connection that
lives long; and that a call with a deadline ends its connection when that has passed, since a server
process that stands still acknowledges all the same. Does not decide which calls have a deadline.
What became of such a call is unknown: it may still be carried out.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

Value = TypeVar("Value")

PATIENT: Final[Mapping[str, int]] = MappingProxyType(
    {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # ms
    }
)
"""libpq's parameters of a connection on which work is done: its peer is given up after 20 s."""

ATTENTIVE: Final[Mapping[str, int]] = MappingProxyType(
    {
        "connect_timeout": 2,
        "keepalives": 1,
        "keepalives_idle": 2,
        "keepalives_interval": 1,
        "keepalives_count": 2,
        "tcp_user_timeout": 3_000,  # ms
    }
)
"""Of one on which a process only hears: news that do not come are late after seconds."""

_INTERVAL_MS: Final = 100
_answer_ms: ContextVar[int] = ContextVar("answer_ms", default=0)


@contextmanager
def answers_within(limit_ms: int) -> Generator[None]:
    """Give each statement of this thread or task so many milliseconds inside a block; 0: as many as
    it takes."""
    before = _answer_ms.set(limit_ms)
    try:
        yield
    finally:
        _answer_ms.reset(before)


class Line(psycopg.Connection[TupleRow]):
    """A connection that is closed when a statement has had no answer by its deadline.

    To cancel the statement instead, one would have to wait for the server that stands still.
    """

    def wait(
        self,
        gen: PQGen[Value],
        interval: float = _INTERVAL_MS / 1000,  # float: psycopg counts in seconds
        timeout: float | None = None,
    ) -> Value:
        """Wait for what a statement comes to.

        Raises:
            psycopg.OperationalError: it failed, or no answer came in time; then the connection is
                closed.
        """
        limit_ms = _answer_ms.get()
        if not limit_ms or timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(
                gen,
                interval,
                limit_ms / 1000,  # float: psycopg counts in seconds
            )
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


class AsyncLine(psycopg.AsyncConnection[TupleRow]):
    """The same for asyncio, where each task has the deadline of who started it."""

    async def wait(
        self,
        gen: PQGen[Value],
        interval: float = _INTERVAL_MS / 1000,  # float: psycopg counts in seconds
        timeout: float | None = None,
    ) -> Value:
        """Wait for what a statement comes to.

        Raises:
            psycopg.OperationalError: as of `Line`.
        """
        limit_ms = _answer_ms.get()
        if not limit_ms or timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(
                gen,
                interval,
                limit_ms / 1000,  # float: psycopg counts in seconds
            )
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise
