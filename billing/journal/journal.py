"""The journal as the proxy sees it: append a record, go on when it is on the disk.

Decides: what is written together. Group commit: one write and fsync at a time, in one thread;
whatever arrives meanwhile is the next batch, and a lone record waits for nobody. In a crowd the
next batch gathers for a moment more: every sync costs the same CPU, however much it makes durable.
Does not decide: how bytes become durable (`appender.py`), what a reader makes of them.

No record is dropped in silence. A record that somebody waits for ends in an answer: durable, or
JournalError. A record that nobody waits for is kept in memory until it is durable; of the
checkpoints of one operation only the newest is, so memory is bounded by the open operations. So are
outcomes of operations that are open here: refused for a full queue, each would stay open for good.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from billing.errors import JournalError
from billing.journal.appender import Appender
from billing.journal.disk import Disk
from billing.journal.open_operations import OpenOperations
from billing.journal.records import (
    AnyRecord,
    Checkpoint,
    Closed,
    Record,
    encode,
    together,
)
from billing.journal.segment import FRAME_BYTES
from billing.journal.statistics import JournalStatistics

SEGMENT_BYTES: Final = 64 << 20
QUEUE_BYTES: Final = 8 << 20
CROWD: Final = 4
"""So many records in one batch are a sign that more are on their way."""

GATHER_MS: Final = 2
ENOUGH: Final = 24  # wait for no more
_SEGMENT_BYTES_LIMIT: Final = 1 << 30  # frames name their batch by a 32-bit offset

_Entry: TypeAlias = "tuple[AnyRecord, bytes, asyncio.Future[None] | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What goes to the disk at once.

    Attributes:
        payloads: of its frames; the checkpoints share some.
        content: the frames, unless they go into a new segment behind what is carried there.
        checkpoint_bytes: payloads of those frames that hold checkpoints.
    """

    payloads: list[bytes]
    content: bytes
    checkpoints: dict[bytes, Checkpoint]
    checkpoint_bytes: int
    entries: list[_Entry]
    carried: list[bytes] | None


def wall_clock_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Journal:
    """One instance, written by one event loop. Make it with `await Journal.open(...)`.

    Every method belongs to the loop that opened it.
    """

    def __init__(self, appender: Appender, *, queue_bytes: int, clock: Callable[[], int]) -> None:
        self._appender = appender
        self._queue_bytes = queue_bytes
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Entry] = []
        self._checkpoints: dict[bytes, Checkpoint] = {}
        self._open = OpenOperations()
        self._backlog_bytes = 0  # of pending and in-flight records, checkpoints apart
        self._in_flight = 0
        self._busy = False
        self._crowded = False
        self._gathering: asyncio.TimerHandle | None = None
        self._closing = False
        self._room = asyncio.Event()
        self._failure: JournalError | None = None
        self._records = self._batches = self._payload_bytes = self._refusals = 0
        self._batch_queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_batches, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        instance: str | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], int] = wall_clock_us,
        disk: Disk | None = None,
    ) -> Journal:
        """Create a new instance under `directory` and hold its lock until the process ends.

        Args:
            instance: its name; by default one that sorts by age and is unique.
            segment_bytes: size at which a new segment begins, up to 1 GiB.
            queue_bytes: payload bytes that may wait for the disk before `append` itself waits.
            clock: microseconds since 1970 UTC.
            disk: the seam of fault tests.

        Raises:
            JournalError: the name is unusable or taken, the disk refuses, or a size is absurd.
        """
        if not 0 < segment_bytes <= _SEGMENT_BYTES_LIMIT:
            raise JournalError("a segment has 1 byte to 1 GiB", field="segment_bytes")
        appender = await asyncio.to_thread(
            Appender,
            directory,
            name=instance,
            segment_bytes=segment_bytes,
            clock=clock,
            disk=disk or Disk(),
        )
        return cls(appender, queue_bytes=queue_bytes, clock=clock)

    @property
    def directory(self) -> Path:
        """Folder of this instance."""
        return self._appender.directory

    @property
    def healthy(self) -> bool:
        """Whether the disk took the last batch and the journal is open."""
        return self._failure is None and not self._closing

    @property
    def failure(self) -> JournalError | None:
        """Why the disk refused the last batch."""
        return self._failure

    async def append(self, record: Record) -> None:
        """Write a record; returns when it is on the disk.

        Waits first while the queue is full. A caller that is cancelled meanwhile does not take
        its record back.

        Raises:
            JournalError: the disk refused it (it will not be read later, unless the disk itself
                failed or the process dies at once), it cannot be encoded, or the journal is
                closed.
        """
        while self._backlog_bytes >= self._queue_bytes and not self._closing:
            self._room.clear()
            self._start_soon()  # after a refusal nothing else might try again
            await self._room.wait()
            if self._failure is not None:
                raise _again(self._failure)
        self._refuse_if_closed()
        await self._enqueue(record, encode(record))

    def append_soon(self, record: Record) -> None:
        """Write a record with the next batch, waiting for nothing.

        A checkpoint replaces a queued one of the same operation. While the disk refuses, the
        record stays queued and goes with the next batch that is taken.

        Raises:
            JournalError: it cannot be encoded, the journal is closed, its disk failed for good,
                or the queue is full (not for checkpoints, nor for what ends an open operation).
        """
        self._refuse_if_vain()
        payload = encode(record)
        if isinstance(record, Checkpoint):
            self._checkpoints[record.id] = record
        elif self._backlog_bytes >= self._queue_bytes and not self._open.ends_one(record):
            raise JournalError(
                "the queue of the journal is full", remedy="wait for the disk: use append"
            )
        else:
            self._queue(record, payload, None)
        self._start_soon()

    def append_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        """As `append_soon` for each of them: five times a second for every open stream.

        Raises:
            JournalError: one cannot be encoded, the journal is closed, or its disk failed for
                good; none of them was taken.
        """
        self._refuse_if_vain()
        together(checkpoints)  # refused here, or never
        self._checkpoints.update((each.id, each) for each in checkpoints)
        self._start_soon()

    def statistics(self) -> JournalStatistics:
        """Figures for metrics."""
        return JournalStatistics(
            records=self._records,
            batches=self._batches,
            payload_bytes=self._payload_bytes,
            refusals=self._refusals,
            segment=self._appender.segment,
            durable_offset=self._appender.durable_offset,
            backlog_records=len(self._pending) + len(self._checkpoints) + self._in_flight,
            backlog_bytes=self._backlog_bytes,
            open_operations=len(self._open),
        )

    async def close(self) -> None:
        """Write what is queued and the trailer, then let go of the lock. Safe to repeat.

        Raises:
            JournalError: the disk refused the end. The lock is gone all the same, and the ledger
                writer adopts the instance as if its process had died.
        """
        if self._closing:
            return
        self._closing = True
        self._room.set()
        closed = Closed(at_us=self._clock())
        clean = False
        try:
            await self._enqueue(closed, encode(closed))
            clean = True
        finally:
            self._batch_queue.put(None)
            self._thread.join()
            self._appender.close(clean=clean)

    def _refuse_if_closed(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed")

    def _refuse_if_vain(self) -> None:
        self._refuse_if_closed()
        if self._appender.broken and self._failure is not None:
            raise _again(self._failure)

    def _enqueue(self, record: AnyRecord, payload: bytes) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._queue(record, payload, future)
        self._start_soon()
        return future

    def _queue(
        self, record: AnyRecord, payload: bytes, future: asyncio.Future[None] | None
    ) -> None:
        self._pending.append((record, payload, future))
        self._backlog_bytes += len(payload)
        self._open.queue(record)

    def _start_soon(self) -> None:
        # Not at once: what else this turn of the loop appends belongs in the same batch.
        if not self._busy:
            self._busy = True
            self._begin_batch()
        elif self._gathering is not None and (self._closing or len(self._pending) >= ENOUGH):
            self._gathering.cancel()
            self._gathering = None
            self._loop.call_soon(self._start_batch)

    def _begin_batch(self) -> None:
        if self._crowded and not self._closing and len(self._pending) < ENOUGH:
            pause = GATHER_MS / 1000  # float: it takes seconds
            self._gathering = self._loop.call_later(pause, self._start_batch)
        else:
            self._loop.call_soon(self._start_batch)

    def _start_batch(self) -> None:
        self._gathering = None
        checkpoints, self._checkpoints = self._checkpoints, {}
        entries, self._pending = self._pending, []
        self._in_flight = len(entries) + len(checkpoints)
        # Checkpoints first, so that the trailer is last.
        payloads = together(list(checkpoints.values()))
        checkpoint_bytes = sum(map(len, payloads))
        payloads += [payload for _, payload, _ in entries]
        size = sum(map(len, payloads)) + FRAME_BYTES * len(payloads)
        carried = self._open.carried() if self._appender.is_full_for(size) else None
        self._batch_queue.put(
            _Batch(
                payloads=payloads,
                # Here and not in the thread: it holds the interpreter for as little as it can.
                content=self._appender.framed(payloads) if carried is None else b"",
                checkpoints=checkpoints,
                checkpoint_bytes=checkpoint_bytes,
                entries=entries,
                carried=carried,
            )
        )

    def _write_batches(self) -> None:
        """Body of the thread: one batch at a time, one call into the loop for each."""
        while (batch := self._batch_queue.get()) is not None:
            failure: JournalError | None = None
            try:
                content = batch.content
                if batch.carried is not None:
                    self._appender.rotate(batch.carried)
                    content = self._appender.framed(batch.payloads)
                self._appender.append(content)
            except JournalError as refused:
                failure = refused
            except Exception as unexpected:  # noqa: BLE001 - nobody may wait for ever on a bug
                self._appender.give_up()
                failure = JournalError(f"the journal stopped: {type(unexpected).__name__}")
            try:
                self._loop.call_soon_threadsafe(self._finish_batch, batch, failure)
            except RuntimeError:  # the loop was closed without closing the journal
                return
            self._appender.make_room()  # nobody waits now

    def _finish_batch(self, batch: _Batch, failure: JournalError | None) -> None:
        self._in_flight = 0
        self._failure = failure
        if failure is None:
            self._batches += 1
            self._appender.publish()
            self._acknowledge(batch)
        else:
            self._refusals += 1
            self._refuse(batch, failure)
        if failure is not None or self._backlog_bytes < self._queue_bytes:
            self._room.set()
        # After a refusal only a waiting caller is a reason to try again at once.
        wanted = (
            bool(self._pending or self._checkpoints)
            if failure is None
            else any(future is not None for _, _, future in self._pending)
        )
        self._busy = wanted
        self._crowded = len(batch.entries) >= CROWD and failure is None
        if wanted:
            self._begin_batch()

    def _acknowledge(self, batch: _Batch) -> None:
        self._payload_bytes += batch.checkpoint_bytes
        for checkpoint in batch.checkpoints.values():
            self._open.note_checkpoint(checkpoint)
        for record, payload, future in batch.entries:
            self._payload_bytes += len(payload)
            self._backlog_bytes -= len(payload)
            if future is not None and not future.done():
                future.set_result(None)
            self._open.note(record, payload)
        self._records += len(batch.entries) + len(batch.checkpoints)

    def _refuse(self, batch: _Batch, failure: JournalError) -> None:
        for operation_id, queued in batch.checkpoints.items():
            self._checkpoints.setdefault(operation_id, queued)
        kept: list[_Entry] = []
        for record, payload, future in batch.entries:
            if future is None:
                kept.append((record, payload, None))
                continue
            self._backlog_bytes -= len(payload)
            self._open.refuse(record)
            if not future.done():
                future.set_exception(_again(failure))
        self._pending = kept + self._pending


def _again(failure: JournalError) -> JournalError:
    """One error per waiter: a shared one would collect the tracebacks of all of them."""
    return JournalError(failure.message, remedy=failure.remedy)
