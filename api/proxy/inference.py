"""The path of an inference request: admitted, dispatched, relayed, recorded.

Decides: the order (key, body, admission, dispatch, relay), and when requests are turned away
because the process is stopping, full or unable to make usage durable. What is refused here leaves
no record. Does not decide which paths are served (`app.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from api.proxy.answer_head import REQUEST_ID
from api.proxy.anthropic_errors import rendered_as
from api.proxy.attempts import Attempts
from api.proxy.binding_port import BindingPort
from api.proxy.checkpoints import CheckpointSweep
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.defects import end_for_defect
from api.proxy.exchange import Exchange, Plant
from api.proxy.health import HealthChecks
from api.proxy.hold_port import HoldPort
from api.proxy.holding import Holding
from api.proxy.holds import Holds
from api.proxy.ids import Mint, shown
from api.proxy.keys import KeyRing, key_digest
from api.proxy.limit_errors import LimitReached, limit_refusal, told_kind
from api.proxy.limits import Limits
from api.proxy.openai_errors import ClientLeft, Unavailable, json_headers
from api.proxy.pools import Pools
from api.proxy.ports import Clock, ControlPort, JournalPort
from api.proxy.request_body import forwarded_lines, read_inference
from api.proxy.stored_responses import keeper_of, placed
from api.proxy.stream import StreamRelay
from api.proxy.tally import Tally
from api.proxy.telemetry.counted import pool_gauges
from api.proxy.telemetry.course import Course
from api.proxy.telemetry.recorder import Ended, Recorder
from api.proxy.telemetry.run_ids import run_ids
from api.proxy.telemetry.trace_context import Trace, passed_on
from api.proxy.unbilled import relay_unbilled
from api.proxy.upstream import Upstream, now_us
from api.proxy.whole import relay_refusal, relay_whole
from billing.admission.backend import ServedModel
from billing.admission.decision import admit
from billing.admission.fallback import fallbacks_for
from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.errors import SteelyardError, UpstreamError

CLIENT_LEFT_STATUS = 499  # in metrics only: nobody is there to be answered
PROBE_US = 1_000_000
DRAIN_GRACE_SECONDS = 5.0


class Inference:
    """Serves inference requests of one process.

    Attributes:
        draining: nothing more is admitted.
    """

    def __init__(
        self,
        control: ControlPort,
        journal: JournalPort,
        keys: KeyRing,
        tally: Tally,
        *,
        clock: Clock,
        limits: Limits,
        holds: HoldPort | None,
        bindings: BindingPort | None,
        recorder: Recorder | None,
    ) -> None:
        self._control = control
        self._journal = journal
        self._keys = keys
        self._tally = tally
        self._clock = clock
        self._limits = limits
        self._recorder = recorder
        self._holds = None if holds is None else Holds(holds, clock)
        self._bindings = bindings
        self._sweep = CheckpointSweep(journal, tally, limits, clock)
        self._live: set[Exchange] = set()
        self._pools = Pools()
        tally.include(lambda: pool_gauges(self._pools.states()))
        self._plant: Plant | None = None
        self._health: HealthChecks | None = None
        self._probed_us = 0
        self._mint = Mint()
        self.draining = False

    @property
    def upstream(self) -> Upstream:
        """The connections to backends, which need a running loop."""
        return self._running_plant().upstream

    async def serve(self, route: Route, request: ClientRequest, client: ClientConnection) -> None:
        """Answer a request on a metered route."""
        began_at_us, failure = self._clock(), ""
        operation_id = self._mint(began_at_us)
        exchange: Exchange | None = None
        self._tally.in_flight += 1
        try:
            exchange = await self._admit(operation_id, began_at_us, route, request, client)
            await self._run(exchange, request, client)
        except ClientLeft as error:
            failure = error.code
        except LimitReached as error:
            failure = error.code
            self._tally.add_refusal(error)
            if not client.lost:
                self._refuse(error, operation_id, route, request)
        except SteelyardError as error:
            failure = error.code
            if not client.lost and not request.status:
                self._refuse(error, operation_id, route, request)
        except Exception as error:  # noqa: BLE001  # the last line: one request, not the process
            failure, name = "internal", shown(operation_id).decode()
            refuse = partial(self._refuse, operation_id=operation_id, route=route, request=request)
            end_for_defect(error, name, request, client, refuse)
        finally:
            self._tally.in_flight -= 1
            path = route.spec.path
            self._tally.answers[path, request.status or CLIENT_LEFT_STATUS] += 1
            if self._recorder is not None:
                ended = Ended(operation_id, began_at_us, self._clock(), path, failure)
                self._recorder.end(ended, request, exchange)

    async def drain(self) -> None:
        """Admit nothing more, let open requests end until the deadline, cut the others."""
        self.draining = True
        await self._wait_until_idle(self._limits.drain_ms / 1000)
        for exchange in list(self._live):
            exchange.stop("drained")
        await self._wait_until_idle(DRAIN_GRACE_SECONDS)

    def close(self) -> None:
        """After `drain`: close the backends' connections."""
        if self._health is not None:
            self._health.close()
        if self._plant is not None:
            self._plant.upstream.close()

    async def _admit(
        self,
        operation_id: bytes,
        at_us: int,
        route: Route,
        received: ClientRequest,
        client: ClientConnection,
    ) -> Exchange:
        """Whose request it is, what it asks for, and whether it may run."""
        received_us = now_us()
        digest = key_digest(received)
        if not self._keys.is_good(digest, at_us):
            await self._keys.grant(digest)
        request = await read_inference(received, route, self._limits.body_bytes)
        run = run_ids(received, request.run)
        self._refuse_if_closed()
        snapshot, keeper = self._control.snapshot, None
        admission = admit(snapshot, digest, request.model, route, self._clock())
        if route is Route.RESPONSES or request.references.file_ids:
            admission = await placed(self._bindings, snapshot, admission, request)
            keeper = keeper_of(self._bindings, admission, request)
            self._refuse_if_stopping()  # it has waited, and nobody has waited for it
        backend = admission.model.backends[0]
        return Exchange(
            id=operation_id,
            shown_id=shown(operation_id),
            admission=admission,
            request=request,
            client=client,
            plant=self._running_plant(),
            model=admission.model,
            backend=backend,
            engine=engine_named(backend.engine),
            run=run,
            asked=received,
            course=Course(received_us),
            keeper=keeper,
            trace=self._trace(operation_id, received),
        )

    def _trace(self, operation_id: bytes, received: ClientRequest) -> Trace | None:
        if self._recorder is None:
            return passed_on(received)
        return self._recorder.trace(operation_id, received)

    def _refuse_if_closed(self) -> None:
        """Turn requests away that could not be served or recorded.

        While the disk refuses, one request a second is admitted: its record is what finds out
        that the disk works again.
        """
        self._refuse_if_stopping()
        if len(self._live) >= self._limits.in_flight:
            raise Unavailable("The server is overloaded; please retry.")
        if not self._journal.healthy:
            now_us = self._clock()
            if now_us - self._probed_us < PROBE_US:
                raise Unavailable("Usage cannot be recorded at the moment; please retry.")
            self._probed_us = now_us

    def _refuse_if_stopping(self) -> None:
        if self.draining:
            raise Unavailable("The server is stopping; please retry.")

    async def _run(
        self,
        exchange: Exchange,
        request: ClientRequest,
        client: ClientConnection,
    ) -> None:
        """Dispatch and relay, watching the client."""
        self._live.add(exchange)
        client.watch(exchange.leave)
        try:
            if client.lost:
                return
            fallbacks = self._fallbacks(exchange)
            if self._holds is not None:
                exchange.holding = await self._hold(exchange, self._holds, fallbacks)
                if client.lost:
                    return
            attempts = self._attempts(exchange, request, fallbacks)
            attempts.begin()
            await self._dispatch(exchange, attempts, request)
        except UpstreamError:
            if exchange.stopped == "drained":
                raise Unavailable("The server is stopping; please retry.") from None
            raise
        finally:
            client.watch(None)
            self._live.discard(exchange)
            exchange.close()

    async def _hold(
        self, exchange: Exchange, holds: Holds, fallbacks: Sequence[ServedModel]
    ) -> Holding | None:
        """What the tenant's limits have to leave for it; nobody has to wait if none applies."""
        holding = await holds.hold(exchange.admission, exchange.request, fallbacks)
        if holding is not None:
            for limit in holding.exceeded:
                self._tally.limits_reached[limit.unit.value, told_kind(limit)] += 1
        return holding

    def _fallbacks(self, exchange: Exchange) -> Sequence[ServedModel]:
        if not exchange.admission.model.fallbacks:
            return ()
        return fallbacks_for(self._control.snapshot, exchange.admission, exchange.request.route)

    def _attempts(
        self, exchange: Exchange, client: ClientRequest, fallbacks: Sequence[ServedModel]
    ) -> Attempts:
        route = exchange.request.route
        lines = b"%bx-request-id: %b\r\n" % (forwarded_lines(client, route), exchange.shown_id)
        return Attempts(
            exchange,
            lines=lines,
            fallbacks=fallbacks,
            first_byte_ms=self._limits.first_byte_ms,
        )

    async def _dispatch(
        self, exchange: Exchange, attempts: Attempts, client: ClientRequest
    ) -> None:
        plant = exchange.plant
        intent = None
        if exchange.request.stream:
            # Written while the backend works on the prompt, so that it is durable long before
            # the first content byte, which waits for it.
            intent = _journaled_intent(exchange)
        connection = await attempts.dispatch()
        backend = exchange.backend
        try:
            limit = self._limits.answer_bytes
            if not exchange.billed:
                await relay_unbilled(exchange, connection, client, limit_bytes=limit)
            elif not 200 <= connection.status < 300:
                await relay_refusal(exchange, connection, client, limit_bytes=limit)
            elif connection.answer.encoded:
                exchange.void("encoded_answer")
                raise UpstreamError("The inference backend compressed its answer unasked.")
            elif connection.answer.stream:
                if intent is None or exchange.attempts:
                    # What failed before is as durable as the rest when the answer begins.
                    intent = _journaled_intent(exchange)
                relay = StreamRelay(exchange, connection, client, intent=intent, sweep=self._sweep)
                await relay.run()
            else:
                await relay_whole(exchange, connection, client, limit_bytes=limit)
        finally:
            intent = None  # its failure knows this frame
            exchange.detach()
            plant.upstream.release(backend, connection)

    def _refuse(
        self, error: SteelyardError, operation_id: bytes, route: Route, request: ClientRequest
    ) -> None:
        shown_id = shown(operation_id)
        if isinstance(error, LimitReached):
            status, headers, content = limit_refusal(error, route.spec.errors, shown_id)
            request.answer(status, [*headers, (REQUEST_ID, shown_id)], content)
            return
        status, content = rendered_as(route.spec.errors, error, shown_id)
        request.answer(status, json_headers(status, (REQUEST_ID, shown_id)), content)

    def _running_plant(self) -> Plant:
        """Made with the first request, when there is a running loop."""
        if self._plant is None:
            self._plant = Plant(
                journal=self._journal,
                upstream=Upstream(self._limits),
                pools=self._pools,
                tally=self._tally,
                clock=self._clock,
            )
            self._health = HealthChecks(self._plant.upstream, self._pools, self._control)
        return self._plant

    async def _wait_until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._live:  # noqa: ASYNC110  # no event: one check per 20 ms, at stop only
                    await asyncio.sleep(0.02)


def _journaled_intent(exchange: Exchange) -> asyncio.Task[None]:
    task = asyncio.create_task(exchange.plant.journal.append(exchange.intent()))
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark a failure as seen: whoever needs the intent awaits it, others need not know."""
    if not task.cancelled():
        task.exception()
