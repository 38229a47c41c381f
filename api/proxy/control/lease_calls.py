"""The calls in which a proxy process leases: numbered, one at a time, never waited for for long.

Decides: when the database counts as away (a call failed, or did not answer in time), and that a
call whose answer did not come is settled by the next one, on another connection if need be. Does
not decide what is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from api.proxy.control.answers import answered
from api.proxy.limit_errors import HoldsUnavailable
from api.proxy.telemetry.counted import LeaseCounts
from billing.admission.limit import Unit
from billing.store import leases as store
from billing.store.database import Database, Role
from billing.store.leases import Caller, LeaseAsk, LeaseRow, Renewal

log = structlog.get_logger("steelyard.leases")

Result = TypeVar("Result")
Now = Callable[[], datetime]

CALL_MS = 1_000
ANSWER_MS = 3_000
"""When a connection is replaced on which a statement stands still; until then nobody can call."""

PAUSE_US = 1_000_000
MARGIN_US = 5_000_000


def monotonic_us() -> int:
    """µs of a clock that nobody sets."""
    return time.monotonic_ns() // 1000


class LeaseCalls:
    """The calls of one process. Use from one task at a time (`lock`).

    Attributes:
        lock: held by whoever calls.
        processes: how many processes lease, as far as is known.
        counts: what is told of them in metrics.
        forget: called when the leases were swept: none of them stands any more.
    """

    def __init__(self, database: Database, instance: str, *, lease_ms: int, now: Now) -> None:
        self._database = database
        self._instance = instance
        self._lease_ms = lease_ms
        self._now = now
        self._turn = 0
        self._began_us = 0
        self._stands_until_us = 0
        self._pausing_until_us = 0
        self._running: Future[Any] | None = None
        # A thread of its own: calls that hang must not keep look-ups of keys from theirs.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leases")
        self.lock = asyncio.Lock()
        self.processes = 1
        self.counts = LeaseCounts()
        self.forget: Callable[[], None] = lambda: None

    @property
    def stand(self) -> bool:
        """Whether the leases stand for certain, by this process's own clock."""
        return monotonic_us() < self._stands_until_us

    async def lease(self, asks: Callable[[], Sequence[LeaseAsk]]) -> list[LeaseRow]:
        """Lease more, or learn which limits have not enough left; then nothing was leased.

        Args:
            asks: asked again if the leases on which they stand were swept.

        Raises:
            HoldsUnavailable: the database is away, or the process has no part in limits any more.
        """
        for _ in range(2):
            work = partial(_lease, asks=asks())
            rows = await self._call("lease", work)
            if rows:
                self._stands_until_us = self._began_us + self._lease_ms * 1000 - MARGIN_US
                return rows
            await self.renew()
        raise HoldsUnavailable("This process may not lease from limits.")

    async def give_back(self, keep: Mapping[int, tuple[Unit, int]]) -> None:
        """Reduce leases to what is kept of them.

        Raises:
            HoldsUnavailable: as `lease`; the next call of any kind about them settles it.
        """
        if not await self._call("give_back", partial(_give_back, keep=keep)):
            await self.renew()

    async def renew(self) -> None:
        """Say that the process lives.

        Raises:
            HoldsUnavailable: as `lease`.
        """
        renewal = await self._renew(anew=False)
        if renewal is Renewal.SWEPT:
            log.warning("leases were swept while the database was away")
            self.forget()
            renewal = await self._renew(anew=True)
        if renewal is not Renewal.STANDS:
            raise HoldsUnavailable("This process may not lease from limits.")
        self._stands_until_us = self._began_us + self._lease_ms * 1000 - MARGIN_US

    async def settle(self) -> None:
        """Wait for a call whose caller was cancelled, as long as it might have: before it is over
        no other can be made, and its connection is in use."""
        if self._running is not None:
            with suppress(Exception):  # what became of it is nobody's any more
                await answered(self._running, CALL_MS)

    def close(self) -> None:
        """Wait for nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _renew(self, *, anew: bool) -> Renewal:
        renewal, self.processes = await self._call("renew", partial(_renew, anew=anew))
        return renewal

    async def _call(
        self, what: str, work: Callable[[sa.Connection, Caller, datetime], Result]
    ) -> Result:
        self._began_us = monotonic_us()
        busy = self._running is not None and not self._running.done()
        if busy or self._began_us < self._pausing_until_us:
            raise HoldsUnavailable("Limits cannot be asked at the moment; please retry.")
        now = self._now()
        self._turn += 1
        caller = Caller(
            instance=self._instance,
            turn=self._turn,
            until=now + timedelta(milliseconds=self._lease_ms),
        )
        running = self._thread.submit(
            self._database.retrying,
            Role.OPERATOR,
            lambda connection: work(connection, caller, now),
            answer_ms=ANSWER_MS,
        )
        self._running = running
        try:
            answer = await answered(running, CALL_MS)
        except (TimeoutError, SQLAlchemyError) as error:
            log.warning("limits cannot be asked", reason=type(error).__name__)
            self.counts.calls[what, "failed"] += 1
            self._pausing_until_us = monotonic_us() + PAUSE_US
            raise HoldsUnavailable("Limits cannot be asked at the moment; please retry.") from None
        self.counts.calls[what, "answered"] += 1
        return answer


def _lease(
    connection: sa.Connection, caller: Caller, now: datetime, *, asks: Sequence[LeaseAsk]
) -> list[LeaseRow]:
    return store.lease(connection, caller, asks, now=now)


def _give_back(
    connection: sa.Connection,
    caller: Caller,
    now: datetime,
    *,
    keep: Mapping[int, tuple[Unit, int]],
) -> bool:
    return store.give_back(connection, caller, keep, now=now)


def _renew(
    connection: sa.Connection, caller: Caller, now: datetime, *, anew: bool
) -> tuple[Renewal, int]:
    renewal = store.renew(connection, caller, anew=anew, now=now)
    return renewal, store.live_processes(connection, now=now)
