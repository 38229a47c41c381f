"""The data plane as an application.

Decides: the route table (whatever is not in it reaches no backend), the order of a request
(key, body, admission, dispatch, relay), and when requests are turned away because the process is
stopping, full or unable to make usage durable. What is refused here leaves no record.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from api.proxy.answer_head import REQUEST_ID, is_encoded, is_event_stream
from api.proxy.checkpoints import CheckpointSweep
from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange, Plant
from api.proxy.ids import Mint, shown
from api.proxy.keys import KeyRing, key_digest
from api.proxy.limits import Limits
from api.proxy.openai_errors import ClientLeft, TooLarge, Unavailable, body, json_headers, rendered
from api.proxy.ports import Clock, ControlPort, JournalPort
from api.proxy.stream import StreamRelay
from api.proxy.tally import Tally
from api.proxy.upstream import Upstream
from api.proxy.whole import relay_refusal, relay_whole
from billing.admission.decision import admit, authenticate, models_for
from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.engine_request import upstream_body
from billing.engines.read_request import read_request
from billing.errors import InvalidInput, SteelyardError, UpstreamError
from billing.journal.records import UNREACHED, Intent

log = logging.getLogger("steelyard.proxy")

_ROUTES = {route.value.encode(): route for route in Route}
_FORWARDED = frozenset({b"accept", b"user-agent", b"traceparent", b"tracestate"})
CLIENT_LEFT_STATUS = 499  # in metrics only: nobody is there to be answered
PROBE_US = 1_000_000
DRAIN_GRACE_SECONDS = 5.0


class _ModelRow(msgspec.Struct):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "steelyard"


class _ModelList(msgspec.Struct):
    data: list[_ModelRow]
    object: str = "list"


def system_clock() -> int:
    """µs since 1970 UTC."""
    return time.time_ns() // 1000


class Proxy:
    """One process of the data plane; `server.py` gives it requests."""

    def __init__(
        self, control: ControlPort, journal: JournalPort, *, clock: Clock, limits: Limits
    ) -> None:
        self._control = control
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._keys = KeyRing(control, limits, clock)
        self._sweep = CheckpointSweep(limits, clock)
        self._live: set[Exchange] = set()
        self._plant: Plant | None = None
        self._probed_us = 0
        self._mint = Mint()
        self.tally = Tally()
        self.limits = limits
        self.draining = False

    async def serve(self, request: ClientRequest, client: ClientConnection) -> None:
        """Answer one request."""
        path, method = request.path, request.method
        route = _ROUTES.get(path)
        if route is not None and method == b"POST":
            await self._infer(route, request, client)
        elif method == b"GET" and path == b"/v1/models":
            await self._models(request)
        elif method == b"GET" and path == b"/healthz":
            request.answer(200, json_headers(200), b'{"status":"ok"}')
        elif method == b"GET" and path == b"/readyz":
            self._ready(request)
        elif method == b"GET" and path == b"/metrics":
            self._metrics(request)
        else:
            self.tally.answers["unknown", 404] += 1
            content = body(
                "Unknown request URL or method.",
                wire_type="invalid_request_error",
                code="unknown_url",
            )
            request.answer(404, json_headers(404), content)

    async def drain(self) -> None:
        """Admit nothing more, let open requests end until the deadline, cut the others."""
        self.draining = True
        await self._wait_until_idle(self._limits.drain_ms / 1000)
        for exchange in list(self._live):
            exchange.stop("drained")
        await self._wait_until_idle(DRAIN_GRACE_SECONDS)

    async def close(self) -> None:
        """After `drain`: close the backends' connections, then the journal."""
        if self._plant is not None:
            self._plant.upstream.close()
        await self._journal.close()

    async def _wait_until_idle(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._live:  # noqa: ASYNC110  # no event: one check per 20 ms, at stop only
                    await asyncio.sleep(0.02)

    # Inference.

    async def _infer(self, route: Route, request: ClientRequest, client: ClientConnection) -> None:
        operation_id = self._mint(self._clock())
        self.tally.in_flight += 1
        try:
            exchange, content = await self._admit(operation_id, route, request, client)
            await self._run(exchange, content, request, client)
        except ClientLeft:
            pass
        except SteelyardError as error:
            if not client.lost and not request.status:
                self._refuse(error, operation_id, request)
        except Exception as error:  # noqa: BLE001  # the last line: one request, not the process
            # The type only: a message could carry bytes of the request.
            log.error("%s failed: %s", shown(operation_id).decode(), type(error).__name__)  # noqa: TRY400
            if request.status:
                client.cut(flush=False)
            elif not client.lost:
                self._refuse(SteelyardError("internal"), operation_id, request)
        finally:
            self.tally.in_flight -= 1
            self.tally.answers[route.value, request.status or CLIENT_LEFT_STATUS] += 1

    async def _admit(
        self, operation_id: bytes, route: Route, received: ClientRequest, client: ClientConnection
    ) -> tuple[Exchange, bytes]:
        """Everything that can refuse a request, before a backend hears of it."""
        digest = key_digest(received.headers)
        await self._keys.grant(digest)
        content = await self._read_body(received)
        request = read_request(content, route)
        self._refuse_if_closed()
        admission = admit(self._control.snapshot, digest, request.model, route, self._clock())
        engine = engine_named(admission.backend.engine)
        exchange = Exchange(
            id=operation_id,
            admission=admission,
            request=request,
            engine=engine,
            client=client,
            plant=self._running_plant(),
        )
        name = admission.backend.model or admission.model.name
        return exchange, upstream_body(request, engine, upstream_model=name)

    def _refuse_if_closed(self) -> None:
        """Turn requests away that could not be served or recorded.

        While the disk refuses, one request a second is admitted: its record is what finds out
        that the disk works again.
        """
        if self.draining:
            raise Unavailable("The server is stopping; please retry.")
        if len(self._live) >= self._limits.in_flight:
            raise Unavailable("The server is overloaded; please retry.")
        if not self._journal.healthy:
            now_us = self._clock()
            if now_us - self._probed_us < PROBE_US:
                raise Unavailable("Usage cannot be recorded at the moment; please retry.")
            self._probed_us = now_us

    async def _read_body(self, request: ClientRequest) -> bytes:
        limit = self._limits.body_bytes
        for name, value in request.headers:
            if name == b"content-length" and int(value) > limit:
                raise TooLarge(f"The request body is larger than {limit} bytes.")
            if name == b"content-encoding" and value.lower() != b"identity":
                raise InvalidInput("Compressed request bodies are not taken.")
        return await request.body(limit)

    async def _run(
        self,
        exchange: Exchange,
        content: bytes,
        request: ClientRequest,
        client: ClientConnection,
    ) -> None:
        """Dispatch and relay, watching the client."""
        self._live.add(exchange)
        client.watch(lambda: exchange.stop("client_left"))
        try:
            if client.lost:
                return
            await self._dispatch(exchange, content, request)
        except UpstreamError:
            if exchange.stopped == "drained":
                raise Unavailable("The server is stopping; please retry.") from None
            raise
        finally:
            client.watch(None)
            self._live.discard(exchange)

    async def _dispatch(self, exchange: Exchange, content: bytes, client: ClientRequest) -> None:
        plant, request = exchange.plant, exchange.request
        intent = None
        if request.stream:
            # Written while the backend works on the prompt, so that it is durable long before
            # the first content byte, which waits for it.
            record = Intent(exchange.id, plant.clock(), exchange.attribution)
            intent = asyncio.create_task(plant.journal.append(record))
            intent.add_done_callback(_retrieve)
        forwarded = [(name, value) for name, value in client.headers if name in _FORWARDED]
        forwarded.append((b"x-request-id", exchange.shown_id))
        backend = exchange.admission.backend
        try:
            connection = await plant.upstream.dispatch(
                backend,
                request.route.value,
                content,
                headers=forwarded,
                attach=exchange.attach,
            )
        except UpstreamError as failure:
            if exchange.reached:
                exchange.void(exchange.reason(failure))
            elif intent is not None:
                exchange.void(UNREACHED)  # only so that its intent is not left open
            raise
        try:
            limit = self._limits.answer_bytes
            if not 200 <= connection.status < 300:
                await relay_refusal(exchange, connection, client, limit_bytes=limit)
            elif is_encoded(connection.headers):
                exchange.void("encoded_answer")
                raise UpstreamError("The inference backend compressed its answer unasked.")
            elif is_event_stream(connection.headers):
                if intent is None:
                    record = Intent(exchange.id, plant.clock(), exchange.attribution)
                    intent = asyncio.create_task(plant.journal.append(record))
                    intent.add_done_callback(_retrieve)
                relay = StreamRelay(exchange, connection, client, intent=intent, sweep=self._sweep)
                await relay.run()
            else:
                await relay_whole(exchange, connection, client, limit_bytes=limit)
        finally:
            exchange.detach()
            plant.upstream.release(backend, connection)

    def _refuse(self, error: SteelyardError, operation_id: bytes, request: ClientRequest) -> None:
        status, content = rendered(error)
        request.answer(status, json_headers(status, (REQUEST_ID, shown(operation_id))), content)

    def _running_plant(self) -> Plant:
        """Made with the first request, when there is a running loop."""
        if self._plant is None:
            self._plant = Plant(
                journal=self._journal,
                upstream=Upstream(self._limits),
                tally=self.tally,
                clock=self._clock,
            )
        return self._plant

    # Everything else.

    async def _models(self, request: ClientRequest) -> None:
        try:
            digest = key_digest(request.headers)
            await self._keys.grant(digest)
            snapshot = self._control.snapshot
            grant = authenticate(snapshot, digest, self._clock())
        except SteelyardError as error:
            status, content = rendered(error)
        else:
            rows = [
                _ModelRow(model.name, model.created_at_us // 1_000_000)
                for model in models_for(snapshot, grant)
            ]
            status, content = 200, msgspec.json.encode(_ModelList(rows))
        self.tally.answers["/v1/models", status] += 1
        request.answer(status, json_headers(status), content)

    def _ready(self, request: ClientRequest) -> None:
        ready = not self.draining and self._journal.healthy
        status = 200 if ready else 503
        content = b'{"ready":true}' if ready else b'{"ready":false}'
        request.answer(status, json_headers(status), content)

    def _metrics(self, request: ClientRequest) -> None:
        kind = b"text/plain; version=0.0.4; charset=utf-8"
        request.answer(200, [(b"content-type", kind)], self.tally.render())


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark a failure as seen: whoever needs the intent awaits it, others need not know."""
    if not task.cancelled():
        task.exception()


def create_app(
    control: ControlPort,
    journal: JournalPort,
    *,
    clock: Clock = system_clock,
    limits: Limits | None = None,
) -> Proxy:
    """The application over its two seams.

    Args:
        clock: µs since 1970 UTC.
    """
    return Proxy(control, journal, clock=clock, limits=limits or Limits())
