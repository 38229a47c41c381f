"""Keeps the leases of a process: gets more before they are spent, gives back what lies idle.

Decides when the database is asked: where a lease does not suffice, ahead of that in the
background, and never twice within `AGAIN_US` for what was just refused. Before a refusal other
processes are asked to give back what lies idle with them, for `RECALL_US` at most. The request
path sees none of this but `take`, `obtain` and `release`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import psycopg
import structlog

from api.proxy.control.lease_calls import LeaseCalls, Now, monotonic_us
from api.proxy.control.listening import heard, listening
from api.proxy.failures import anew
from api.proxy.limit_errors import HoldsUnavailable, LimitReached, LimitsCrowded
from api.proxy.telemetry.counted import LeaseCounts
from billing.admission.lease_book import Held, Lease, LeaseBook, Wanted
from billing.admission.limit import Window
from billing.metering.event_id import microseconds
from billing.store.database import Database
from billing.store.leases import CHANGED, LeaseAsk, LeaseRow

log = structlog.get_logger("steelyard.leases")

CHANNEL = "steelyard_recall"
LEASE_MS = 300_000
BEAT_SECONDS = 1
SILENCE_SECONDS = 1
RECALL_US = 250_000
RECALL_PAUSE_SECONDS = 0.02
AGAIN_US = 100_000
IDLE_US = 5_000_000
BUSY_US = 1_000_000
PATIENCE_US = 3_000_000
FIRST_CHUNK = 64
LARGEST_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refusal:
    """What was refused last of a limit.

    Attributes:
        amount: so much would be refused, too.
        free: of the lease then; with more than that another answer is possible.
        ends_us: of the window that refused it, in µs since 1970 UTC; the next one may admit.
    """

    at_us: int
    amount: int
    free: int
    used: int
    capacity: int
    ends_us: int | None


class LeaseKeeper:
    """The leases of one process, by its name; a `HoldPort`. Use `stop` at the end."""

    def __init__(
        self,
        database: Database,
        conninfo: str,
        instance: str,
        *,
        now: Now,
        lease_ms: int = LEASE_MS,
    ) -> None:
        """
        Args:
            conninfo: for the connection on which recalls are heard.
            instance: name of the process's journal, with which its leases end.
        """
        self._conninfo = conninfo
        self._instance = instance
        self._now = now
        self._calls = LeaseCalls(database, instance, lease_ms=lease_ms, now=now)
        self._calls.forget = self._forget
        self._book = LeaseBook()
        self._refusals: dict[int, _Refusal] = {}
        self._owed: dict[int, Lease] = {}  # reduced here, and perhaps not yet in the database
        self._flights: dict[tuple[int, ...], asyncio.Task[None]] = {}
        self._top_ups: dict[int, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def counts(self) -> LeaseCounts:
        """What became of the leases since the process started."""
        return self._calls.counts

    @property
    def processes(self) -> int:
        """How many processes lease, as far as is known."""
        return self._calls.processes

    def take(self, wanted: Sequence[Wanted], now_us: int) -> Held | None:
        """Set amounts aside from leases in memory, all or none."""
        if not self._calls.stand:
            return None
        held = self._book.take(wanted, now_us)
        if held is not None:
            for lease, _ in held.parts:
                if lease.free * 4 < lease.chunk and lease.limit.id not in self._top_ups:
                    self._top_up(lease, now_us)
        return held

    async def obtain(self, wanted: Sequence[Wanted], now_us: int) -> Held:
        """Set amounts aside, if need be from the database and from what other processes leave.

        Raises:
            LimitReached: a limit has not that much left.
            HoldsUnavailable: limits cannot be asked now.
            LimitsCrowded: too many ask.
        """
        limits = tuple(sorted(each.limit.id for each in wanted))
        began_us = monotonic_us()
        while monotonic_us() - began_us < PATIENCE_US:
            self._refuse_again(wanted, now_us)
            flight = self._flights.get(limits)
            # One that has landed in this turn of the loop is no reason to wait: whoever awaits it
            # goes on at once, finds it here again, and nobody else has a turn to take it away.
            ours = flight is None or flight.done()
            if flight is None or ours:
                flight = asyncio.create_task(self._fly(wanted))
                self._flights[limits] = flight
                flight.add_done_callback(partial(self._landed, limits))
            try:
                # A request that is given up must not take the others' call with it.
                await asyncio.shield(flight)
            except LimitReached:
                if ours:
                    raise
            finally:
                del flight  # its failure knows this frame: a circle
            held = self.take(wanted, now_us)
            if held is not None:
                return held
        raise LimitsCrowded("Limits are asked by too many requests; please retry.")

    def release(self, held: Held, draws: Mapping[int, int]) -> None:
        """Give back what was held, less what was drawn by lease id. A second time: nothing."""
        self._book.release(held, draws)

    def begin(self) -> None:
        """Keep in touch from now on, in a running loop, whether or not anything is leased: while
        limits cannot be asked, a process is exposed to its share among those that were heard of.
        """
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._listen())]

    async def stop(self) -> None:
        """Give back everything; no request runs any more."""
        tasks = (*self._tasks, *self._flights.values(), *self._top_ups.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._calls.settle()
        with suppress(HoldsUnavailable):
            await self._give_back(list(self._book.leases))
        self._calls.close()

    def _landed(self, limits: tuple[int, ...], flight: asyncio.Task[None]) -> None:
        if self._flights.get(limits) is flight:
            del self._flights[limits]

    async def _fly(self, wanted: Sequence[Wanted]) -> None:
        """Ask until every limit has granted, or one refuses for good."""
        deadline_us = monotonic_us() + RECALL_US
        while True:
            async with self._calls.lock:
                now_us = microseconds(self._now())
                if self._suffices(wanted, now_us):
                    return
                self.begin()
                rows = await self._lease(wanted, now_us)
                refused = [row for row in rows if row.lease_id is None]
                if not refused:
                    self._grant(wanted, rows, now_us)
                    return
                short = self._note(wanted, refused, now_us, last=monotonic_us() > deadline_us)
            if short is not None:
                raise anew(short)
            await asyncio.sleep(RECALL_PAUSE_SECONDS)

    async def _lease(self, wanted: Sequence[Wanted], now_us: int) -> list[LeaseRow]:
        """Lease what is wanted. What counted on credit that has expired goes back before: it may
        be more than there is now."""
        ended = [
            each.limit.id
            for each in wanted
            if each.limit.window is Window.NONE
            and (lease := self._book.leases.get(each.limit.id)) is not None
            and lease.over(now_us)
        ]
        if ended:
            await self._return(ended)
        return await self._calls.lease(partial(self._asks, wanted, now_us))

    def _suffices(self, wanted: Sequence[Wanted], now_us: int) -> bool:
        """Whether another call has brought meanwhile what is wanted."""
        if not self._calls.stand:
            return False
        held = self._book.take(wanted, now_us)
        if held is None:
            return False
        self._book.release(held, {})
        return True

    def _asks(self, wanted: Sequence[Wanted], now_us: int) -> list[LeaseAsk]:
        return [self._ask(each, now_us) for each in wanted]

    def _ask(self, each: Wanted, now_us: int) -> LeaseAsk:
        limit, lease = each.limit, self._book.leases.get(each.limit.id)
        window = limit.window_at(now_us)
        chunk = each.amount * FIRST_CHUNK
        free = 0
        if lease is not None:
            if now_us - lease.asked_us < BUSY_US:
                chunk = min(max(chunk, 2 * lease.chunk), each.amount * LARGEST_CHUNK)
            lease.chunk = chunk
            # Below zero it has to make up for what requests used beyond their holds.
            free = 0 if lease.over(now_us) else lease.free
        least = max(0, each.amount - free)
        return LeaseAsk(
            limit_id=limit.id,
            unit=limit.unit,
            lease_id=None if lease is None else lease.id,
            have=0 if lease is None else lease.granted,
            least=least,
            blocks=each.blocks,
            wanted=max(each.amount - free, 0) + chunk,
            window=window,
        )

    def _grant(self, wanted: Sequence[Wanted], rows: Sequence[LeaseRow], now_us: int) -> None:
        limits = {each.limit.id: each.limit for each in wanted}
        for row in rows:
            if row.lease_id is not None:
                limit = limits[row.limit_id]
                window = limit.window_at(now_us)
                self._book.grant(
                    limit,
                    lease_id=row.lease_id,
                    granted=row.granted,
                    window_end_us=row.ends_us if window is None else window[1],
                    left=row.capacity - row.used,
                    now_us=now_us,
                )
                self._refusals.pop(row.limit_id, None)

    def _note(
        self, wanted: Sequence[Wanted], refused: Sequence[LeaseRow], now_us: int, *, last: bool
    ) -> LimitReached | None:
        """Remember what was refused for good: nobody can give it back, or nobody has by now."""
        by_id = {each.limit.id: each for each in wanted}
        reached: list[LimitReached] = []
        for row in refused:
            each = by_id[row.limit_id]
            free = self._book.free_of(row.limit_id)
            most = free + row.capacity - row.used + (0 if last else row.elsewhere)
            if last or most < each.amount:
                window = each.limit.window_at(now_us)
                self._refusals[row.limit_id] = refusal = _Refusal(
                    at_us=monotonic_us(),
                    # The least of which is known that it is too much: a crowd need not ask for
                    # each of its amounts, one after the other.
                    amount=min(each.amount, most + 1),
                    free=free,
                    used=row.used,
                    capacity=row.capacity,
                    ends_us=None if window is None else window[1],
                )
                reached.append(_reached(each, refusal, now_us))
        return max(reached, key=_lasts, default=None)

    def _refuse_again(self, wanted: Sequence[Wanted], now_us: int) -> None:
        reached: list[LimitReached] = []
        for each in wanted:
            refusal = self._refusals.get(each.limit.id)
            if (
                refusal is not None
                and each.blocks
                and (refusal.ends_us is None or now_us < refusal.ends_us)
                and monotonic_us() - refusal.at_us < AGAIN_US
                and each.amount >= refusal.amount
                and self._book.free_of(each.limit.id) <= refusal.free
            ):
                reached.append(_reached(each, refusal, now_us))
        if reached:
            raise anew(max(reached, key=_lasts))

    def _top_up(self, lease: Lease, now_us: int) -> None:
        """Ask for more ahead of need, unless hardly anything is left to be had."""
        if lease.left < lease.chunk or now_us - lease.asked_us < AGAIN_US:
            return
        limit = lease.limit
        more = Wanted(limit=limit, amount=max(1, lease.chunk // FIRST_CHUNK), blocks=False)

        async def ask() -> None:
            with suppress(HoldsUnavailable):
                async with self._calls.lock:
                    asked_us = microseconds(self._now())
                    rows = await self._lease([more], asked_us)
                    self._grant([more], rows, asked_us)

        task = asyncio.create_task(ask())
        self._top_ups[limit.id] = task
        task.add_done_callback(lambda _: self._top_ups.pop(limit.id, None))

    async def _give_back(self, limit_ids: Iterable[int]) -> None:
        async with self._calls.lock:
            await self._return(limit_ids)

    async def _return(self, limit_ids: Iterable[int]) -> None:
        """Give back what is free of some limits, and what could not be given back before.

        Nothing of that is free here any more: unless it is asked again, nobody could use it.
        """
        leases = self._book.leases
        for lease in self._book.give_back(limit_ids):
            self._owed[lease.limit.id] = lease
        owed = [lease for each, lease in self._owed.items() if leases.get(each) is lease]
        if owed:
            keep = {
                lease.id: (lease.limit.unit, max(lease.granted, lease.drawn + lease.held))
                for lease in owed
            }
            await self._calls.give_back(keep)
        self._owed.clear()

    def _forget(self) -> None:
        self._calls.counts.lost += len(self._book.leases)
        self._book.leases.clear()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await _tried(self._keep_up())

    async def _keep_up(self) -> None:
        async with self._calls.lock:
            await self._calls.renew()
        idle = self._book.idle(microseconds(self._now()) - IDLE_US)
        if idle or self._owed:
            await self._give_back(idle)

    async def _listen(self) -> None:
        while True:
            await _tried(self._hear_recalls())
            await asyncio.sleep(BEAT_SECONDS)

    async def _hear_recalls(self) -> None:
        async with await listening(self._conninfo, CHANNEL) as connection:
            while True:
                for recall in await heard(connection, SILENCE_SECONDS):
                    who, _, limits = recall.partition(" ")
                    if who != self._instance:
                        recalled = [int(text) for text in limits.split(",") if text.isdecimal()]
                        if who == CHANGED:
                            for limit_id in recalled:
                                self._refusals.pop(limit_id, None)
                        with suppress(HoldsUnavailable):
                            await self._give_back(recalled)


async def _tried(work: Awaitable[None]) -> None:
    """Do what is done again and again: what fails once, by a defect even, must not end it."""
    try:
        await work
    except (HoldsUnavailable, psycopg.Error):
        return
    except Exception as error:  # noqa: BLE001  # a task that has died is missed by nobody
        log.error("leases are not kept as they should be", reason=type(error).__name__)  # noqa: TRY400  # a message could carry values


def _lasts(reached: LimitReached) -> tuple[bool, int]:
    """Of several limits that are reached a client is told the one that it has to wait for longest:
    after any other wait it would be refused again."""
    return reached.wait_us is None, reached.wait_us or 0


def _reached(wanted: Wanted, refusal: _Refusal, now_us: int) -> LimitReached:
    return LimitReached(
        wanted.limit,
        used=refusal.used,
        capacity=refusal.capacity,
        resets_us=refusal.ends_us,
        now_us=now_us,
        needed=wanted.amount,
    )
