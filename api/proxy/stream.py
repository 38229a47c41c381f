"""Relay of streams.

Decides: what leaves and when. The intent is durable before the first content byte, the usage
event before the event that ends the stream for a client: `[DONE]`, an error, or the last event
and the end of the body. Everything before that end has been delivered by then, so that a crash
in between bills no more than the client has. Bytes pass unchanged, but for usage that only the
meter asked for.

A stream that is cut (client left, backend broke, deadline, drain) is billed by what was
delivered: the counts up to the last event whose bytes the kernel took. A client whose backend
broke sees the connection close without the last chunk, as it would have without a proxy. Where a
contract has the backend read on for a client that has gone, an answer that comes to its end, or
whose whole usage the engine has told, is billed whole.
"""

from __future__ import annotations

import asyncio

from api.proxy.checkpoints import CheckpointSweep
from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.failures import anew
from api.proxy.limit_errors import HoldsUnavailable, LimitReached
from api.proxy.prompt_bounds import floor_of, learn_from
from api.proxy.stored_responses import bind_answer
from api.proxy.stream_errors import error_event
from api.proxy.upstream import now_us
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.charged import charged_as_said
from billing.engines.mark import NOTHING, Ending, Mark
from billing.engines.reading import stream_reading
from billing.errors import JournalError, UpstreamError, UpstreamUnavailable
from billing.journal.records import Cause, Checkpoint, Counts, Draw

DELIVERY_POLL_SECONDS = 0.01


class StreamRelay:
    """One stream from the backend's head to its record.

    Attributes:
        flushed: counts up to the last event whose bytes have left the process.
    """

    __slots__ = (
        "_bound",
        "_checkpointed",
        "_client",
        "_connection",
        "_exchange",
        "_failure",
        "_intent",
        "_marks",
        "_passed_last",
        "_reading",
        "_settled",
        "_stalled_since",
        "_started",
        "_sweep",
        "_write_lost",
        "_written",
        "_written_us",
        "flushed",
    )

    def __init__(
        self,
        exchange: Exchange,
        connection: UpstreamConnection,
        client: ClientRequest,
        *,
        intent: asyncio.Task[None],
        sweep: CheckpointSweep,
    ) -> None:
        self._exchange = exchange
        self._connection = connection
        self._client = client
        self._intent = intent
        self._sweep = sweep
        request = exchange.request
        self._reading = stream_reading(
            request.route, exchange.engine, request, prompt_floor=floor_of(exchange)
        )
        self._started = False
        self._settled = False
        self._failure: Exception | None = None
        self._bound = 0  # ids in the stream that are its tenant's
        self._passed_last: bytes | None = None  # what left with the ending, if `_pass_on` saw it
        self._written = 0
        self._written_us = 0  # monotonic; 0 before anything was written
        self._marks: list[tuple[int, Mark]] = []  # written, not yet taken by the kernel
        self._write_lost = False  # something that may leave does not reach the client
        self._checkpointed = NOTHING
        self._stalled_since: int | None = None
        self.flushed = NOTHING

    async def run(self) -> None:
        """Relay to the end.

        Raises:
            UpstreamError: it broke before anything was sent; a void is journaled.
            Unavailable: it is stored, and its id cannot be bound; nothing was sent.
            LimitReached, HoldsUnavailable: its first bytes are more than its limits have left.
            JournalError: it cannot be made durable; nothing was sent.
        """
        self._sweep.add(self)
        try:
            await self._relay()
        except UpstreamError as failure:
            cause = self._exchange.reason(failure)
            if not self._started and not self._exchange.left:
                self._exchange.void(cause)
                raise
            await self._cut(cause)
        except JournalError:
            if not self._started and not self._exchange.left:
                self._exchange.void("journal_refused")
                raise
            # Its end cannot be made durable, so nobody may be told that it is complete.
            self._exchange.client.cut(flush=False)
        except Exception:
            # A defect of ours leaves no operation open: what was delivered is billed.
            if not self._settled:
                await self._settle_cut(self._exchange.cause("upstream_broke"))
            raise
        finally:
            self._sweep.discard(self)
            self._connection.tap = None  # knows the relay: a circle
            del self._intent  # knows the frames in which it failed

    async def _relay(self) -> None:
        while received := await self._connection.read():
            # What comes while these bytes wait for their client must not leave before them.
            self._connection.tap = None
            if self._exchange.stopped is not None:
                raise UpstreamUnavailable("The exchange was ended.")
            self._exchange.course.note_first_byte()
            passed = self._reading.feed(received)
            refusal = await self._extend_hold() if passed else None
            if refusal is not None:
                await self._end_at_limit(refusal, passed)
                return
            if self._reading.ending is not None:
                await self._finish(passed)
                return
            if passed:
                await self._write(passed)
                holding = self._exchange.holding
                if holding is None or holding.covers_all:
                    self._connection.tap = self._pass_on
        self._connection.tap = None
        if self._failure is not None:
            raise anew(self._failure)
        passed = self._passed_last
        await self._finish(self._reading.finish() if passed is None else passed)

    async def _extend_hold(self) -> LimitReached | HoldsUnavailable | None:
        """Hold enough for what is about to be relayed; why not, where the answer ends here."""
        holding = self._exchange.holding
        while holding is not None and not holding.covers(self._reading.passed.completion):
            if holding.covers_all:
                return None  # the engine went beyond the bound that it was given
            refusal = await holding.extend()
            if refusal is not None:
                return refusal
        return None

    async def _end_at_limit(self, refusal: LimitReached | HoldsUnavailable, passed: bytes) -> None:
        """Bill what was delivered, and tell the client why there is no more.

        Raises:
            LimitReached, HoldsUnavailable: nothing was sent yet; a void is journaled.
            UpstreamUnavailable: it was ended meanwhile; then it is billed like any cut stream.
        """
        exchange = self._exchange
        self._connection.abort()
        if not self._started and not exchange.left:
            self._settled = True
            exchange.void("limit_reached")
            raise anew(refusal)
        exchange.plant.tally.add_refusal(refusal)
        await self._until_delivered()
        self._write_lost = True  # the refusal takes its place
        await self._settle_cut(exchange.cause("drained"))
        route = exchange.request.route
        event = error_event(refusal, route, exchange.shown_id, instead=passed)
        await self._write(event, last=True)

    def _pass_on(self, received: bytes) -> bool:
        """Relay bytes in the same turn of the loop in which they came: a chunk that has nothing
        to wait for needs no task to be woken. False leaves them to `_relay`."""
        exchange = self._exchange
        if exchange.stopped is not None or exchange.client.blocked:
            return False
        reading = self._reading
        try:
            passed = reading.feed(received)
        except Exception as failure:  # noqa: BLE001  # `_relay` raises it, where it is settled
            self._failure = failure
            self._connection.interrupt()
            return True
        if exchange.keeper is not None and len(reading.object_ids) != self._bound:
            self._failure = UpstreamError("The inference backend's answer cannot be used.")
            self._connection.interrupt()
            return True
        if reading.ending is not None:
            self._passed_last = passed
            self._connection.tap = None
            self._connection.interrupt()
        elif passed:
            if self._client.push(passed) and not self._marks:  # as nearly always: it has left
                self._written += len(passed)
                self._written_us = self._connection.heard_us
                self.flushed = reading.passed
            else:
                self._note_written(len(passed))
        return True

    async def _finish(self, passed: bytes) -> None:
        """The end has come: make the usage durable, then let the end leave."""
        if passed:
            await self._write(passed)
        await self._until_delivered()
        if self._reading.ending is Ending.ERROR:
            await self._settle_cut(self._exchange.cause("upstream_broke"))
        elif self._reading.holding or self._started or self._write_lost:
            await self._settle_complete()
        else:
            self._settled = True
            self._exchange.void("empty_answer")
        ended = self._connection.ended
        await self._write(self._reading.held(), last=ended)
        while not ended:
            # Whatever follows the end mark passes too; it changes nothing any more.
            try:
                tail = await self._connection.read()
            except UpstreamError:
                tail = b""
            ended = not tail
            await self._write(tail, last=ended)

    async def _until_delivered(self) -> None:
        """Wait until the kernel has taken everything but the end.

        Without it a client that stops reading before the last bytes, and then leaves or loses
        us, would have been billed for what it never got.

        Raises:
            UpstreamUnavailable: it was ended meanwhile; then it is billed like any cut stream.
        """
        exchange = self._exchange
        while (self._marks or self._write_lost) and not exchange.left:
            if exchange.stopped is not None or exchange.client.lost:
                raise UpstreamUnavailable("The exchange was ended.")
            since_us = now_us()
            await asyncio.sleep(DELIVERY_POLL_SECONDS)
            self._client.waited_us += now_us() - since_us
            self.measure()

    async def _write(self, content: bytes, *, last: bool = False) -> None:
        """Send bytes and note which counts they carry."""
        exchange = self._exchange
        if exchange.left:
            self._write_lost = True
            return
        if exchange.keeper is not None and len(self._reading.object_ids) != self._bound:
            # The event with the id waits: once a client has it, it may send it back.
            self._bound = len(self._reading.object_ids)
            await bind_answer(exchange, self._reading.object_ids)
        if not self._started:
            if not self._settled:
                await self._intent
                if exchange.stopped is not None:
                    raise UpstreamUnavailable("The exchange was ended.")
                if exchange.left:
                    self._write_lost = True
                    return
            self._started = True
            lines = exchange.answer_lines(self._connection.answer)
            self._client.begin_with(self._connection.status, lines)
        if last:
            await self._client.finish(content)
        else:
            await self._client.write(content)
        self._note_written(len(content))

    def _note_written(self, size: int) -> None:
        exchange = self._exchange
        if exchange.client.lost or exchange.left:
            self._write_lost = True
            return
        self._written += size
        self._written_us = now_us()
        if exchange.client.unsent_bytes():
            self._marks.append((self._written, self._reading.passed))
            self.measure()
        else:
            self._marks.clear()
            self.flushed = self._reading.passed

    def measure(self) -> None:
        """Bring `flushed` up to date with what the kernel has taken meanwhile.

        Not after the client was lost: its unsent bytes were thrown away, not delivered.
        """
        if not self._marks or self._exchange.client.lost or self._exchange.left:
            return
        gone = self._written - self._exchange.client.unsent_bytes()
        while self._marks and self._marks[0][0] <= gone:
            self.flushed = self._marks.pop(0)[1]
            self._stalled_since = None

    def sweep(self, now_us: int, *, stalled_us: int) -> Checkpoint | None:
        """Its checkpoint, if more was delivered; gives up on a client that reads nothing."""
        if self._marks:
            self.measure()
        if self._settled or not self._started:
            return None
        if not self._marks:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now_us
        elif now_us - self._stalled_since > stalled_us:
            self._exchange.leave()
        return None if self.flushed == self._checkpointed else self._checkpoint(now_us)

    def _checkpoint(self, now_us: int) -> Checkpoint:
        exchange, delivered = self._exchange, self.flushed
        self._checkpointed = delivered
        prompt, cached, cache_write, completion, reasoning = delivered
        draws: tuple[Draw, ...] = ()
        if exchange.holding is None and not cache_write and charged_as_said(exchange.model):
            # The common case, met five times a second for every stream.
            counts = Counts(prompt - cached, cached, 0, completion, reasoning)
        else:
            tokens = exchange.counts(delivered.counts())
            counts, draws = Counts.of(tokens), exchange.draws(tokens)
        return Checkpoint(exchange.id, now_us, counts, draws)

    async def _settle_complete(self) -> None:
        """Bill the whole stream."""
        reading = self._reading
        anomalies = self._exchange.plant.tally.anomalies
        for anomaly in reading.anomalies:
            anomalies[anomaly] += 1
        mark = reading.mark
        if reading.exact:
            learn_from(self._exchange, mark.counts())
        else:
            anomalies["usage_missing"] += 1
        if reading.exact and not mark.prompt and not mark.completion:
            anomalies["usage_zero"] += 1
        cause = self._exchange.cause("completed")
        await self._settle(mark, cause=cause, estimated=not reading.exact)

    async def _settle_cut(self, cause: Cause) -> None:
        """Bill what was delivered; nothing, if that is nothing that has a price."""
        self.measure()
        mark, estimated, reading = self.flushed, True, self._reading
        # Behind an error nothing is metered; what else is held may carry some of the answer.
        held = reading.holding and reading.ending is not Ending.ERROR
        everything_left = not (self._marks or self._write_lost or held)
        if reading.exact and (everything_left or self._exchange.left):
            mark, estimated = reading.mark, False
        if not mark.prompt and not mark.completion:
            self._settled = True
            self._exchange.void(cause)
            return
        await self._settle(mark, cause=cause, estimated=estimated)

    async def _settle(self, mark: Mark, *, cause: Cause, estimated: bool) -> None:
        self._settled = True
        usage = self._exchange.usage(
            mark.counts(),
            raw=self._reading.raw(),
            tier=self._reading.tier,
            cause=cause,
            estimated=estimated,
            at_us=self._last_write_us() if cause != "completed" else None,
        )
        try:
            await self._exchange.plant.journal.append(usage)
        except JournalError:
            # The disk may take it later; the client is not told that the answer is complete.
            self._exchange.plant.write_soon(usage)
            raise

    def _last_write_us(self) -> int | None:
        """When the last bytes were written, on the wall clock; None if none were."""
        if not self._written_us:
            return None
        return self._exchange.plant.clock() - (now_us() - self._written_us)

    async def _cut(self, cause: Cause) -> None:
        """The stream was cut: bill what was delivered, then let the client see it."""
        with self._exchange.plant.tally.refusals():
            if not self._settled:
                await self._settle_cut(cause)
        self._exchange.client.cut(flush=cause != "client_left")
