"""The attempts of one operation: dispatched until a backend answers, billed once.

Decides: what is tried again and where. As long as nothing of an answer has come, another backend
of the same model takes over from one that cannot be reached, breaks, is overloaded (429, 502,
503, 504) or ends a stream without an event; then, if the contract prices them, the model's
fallbacks. A backend that was silent to its deadline is not followed by one of the same model:
the client has waited long enough. Answers that are about the request (4xx) are the client's.
The last failure is what the client sees.

Every attempt that failed is in the operation's records; one that reached a backend cost compute
and bills nothing. Does not decide which backend is next (`pools.py`), nor what becomes of an answer
that has begun (`whole.py`, `stream.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from api.proxy.answer_head import retry_after_us
from api.proxy.backend_body import body_for
from api.proxy.exchange import Exchange
from api.proxy.failures import anew
from api.proxy.headers import lines_of
from api.proxy.openai_errors import Unavailable
from api.proxy.pools import Seat
from api.proxy.upstream import now_us
from api.proxy.upstream_connection import UpstreamConnection
from billing.admission.backend import Backend, ServedModel
from billing.engines.capabilities import Capabilities, engine_named
from billing.engines.engine_request import without_injection
from billing.errors import InvalidInput, UpstreamError, UpstreamTimeout
from billing.journal.records import UNREACHED, Attempted

OVERLOADED = 429
REFUSED = frozenset({400, 422})
GATEWAY_FAILED = frozenset({502, 503, 504})


class _Placement(NamedTuple):
    """Where the next attempt goes, and with which body."""

    model: ServedModel
    backend: Backend
    engine: Capabilities
    content: bytes


class Attempts:
    """Those of one operation. `begin`, then `dispatch`, once each."""

    __slots__ = (
        "_at_us",
        "_began_us",
        "_content",
        "_deadline_us",
        "_exchange",
        "_failed",
        "_first_byte_ms",
        "_left",
        "_lines",
        "_models",
        "_plain",
        "_position",
        "_refused_by_engine",
        "_worked",
    )

    def __init__(
        self,
        exchange: Exchange,
        *,
        lines: bytes,
        fallbacks: Sequence[ServedModel],
        first_byte_ms: int,
    ) -> None:
        """
        Args:
            lines: of the heads that the backends get.
            fallbacks: models that may answer in place of the one that was asked for.
            first_byte_ms: deadline where a backend has none of its own.
        """
        self._exchange = exchange
        self._lines = lines
        self._models = (exchange.admission.model, *fallbacks)
        self._first_byte_ms = first_byte_ms
        self._position = 0
        self._failed: set[str] = set()
        self._left = exchange.admission.model.attempts
        self._refused_by_engine: InvalidInput | None = None
        self._deadline_us = 0
        self._worked: tuple[Attempted, ServedModel, Backend] | None = None
        self._content = b""
        self._plain = False  # without what only the meter asks for
        self._at_us = 0
        self._began_us = 0

    def begin(self) -> None:
        """Take a place at the first backend.

        Raises:
            InvalidInput: no engine of the model takes the request.
            Unavailable: no backend can take it now.
        """
        at_us = now_us()
        placement = self._next(at_us)
        if placement is None:
            raise Unavailable("The model is at its capacity; please retry.")
        self._place(placement, at_us)

    async def dispatch(self) -> UpstreamConnection:
        """Send it until an answer has begun.

        Returns:
            the connection: its body has begun or is over. It belongs to `exchange.backend`. Its
            status may be any, an overloaded backend's too if no other could take over.

        Raises:
            UpstreamError: the last attempt failed without an answer; a void is journaled.
        """
        exchange = self._exchange
        while True:
            if exchange.model is not exchange.admission.model:
                await self._hold_for_fallback()
            try:
                connection = await self._send()
            except UpstreamError as failure:
                silent = exchange.reached and isinstance(failure, UpstreamTimeout)
                reason = exchange.reason(failure)
                if not self._retried(reason, another_model=silent):
                    self._give_up(reason)
                    raise
                continue
            if self._asks_again(connection):
                continue
            reason = self._refusal(connection)
            if reason is None:
                self._seat.answered()
                return connection
            rest_us = retry_after_us(connection.headers) if connection.status == 503 else 0
            answered = connection.status == OVERLOADED
            held_by = exchange.backend
            if not self._retried(reason, answered=answered, rest_us=rest_us):
                return connection
            exchange.plant.upstream.release(held_by, connection)

    @property
    def _seat(self) -> Seat:
        seat = self._exchange.seat
        assert seat is not None
        return seat

    async def _hold_for_fallback(self) -> None:
        """Hold what limits on a fallback alone want, or go on to the next one.

        Raises:
            Unavailable: there is none whose limits have that much left; a void is journaled.
        """
        exchange = self._exchange
        while exchange.holding is not None and await exchange.holding.hold_for_serving():
            if not self._skipped():
                self._give_up(UNREACHED)
                raise Unavailable("The model is at its capacity; please retry.")

    def _skipped(self) -> bool:
        """Go on to the next model without having tried this one; whether there is one."""
        at_us = self._deadline_us = now_us()
        placement = self._next(at_us)
        if placement is None:
            return False
        self._left += 1
        self._place(placement, at_us)
        if self._exchange.billed:
            self._exchange.plant.write_soon(self._exchange.intent())
        return True

    async def _send(self) -> UpstreamConnection:
        """One attempt, up to the first byte of the answer's body."""
        exchange, lines = self._exchange, self._lines
        upstream, backend = exchange.plant.upstream, exchange.backend
        if exchange.trace is not None:
            lines += lines_of(exchange.trace.for_backend(len(exchange.attempts)))
        self._at_us, self._began_us = exchange.plant.clock(), now_us()
        exchange.course.note_attempt(self._began_us)
        connection = await upstream.dispatch(
            backend,
            exchange.request.route.spec.path,
            self._content,
            content_type=exchange.request.content_type,
            lines=lines,
            attach=exchange.attach,
            first_by_us=self._deadline_us,
        )
        try:
            if connection.waits_for_first:
                await connection.first()
        except BaseException:
            upstream.release(backend, connection)
            raise
        return connection

    def _asks_again(self, connection: UpstreamConnection) -> bool:
        """Whether the same backend is asked again, without what only the meter asked for.

        Some servers refuse the whole request because of it. A backend that answers without it
        is never asked with it again by this process.
        """
        exchange = self._exchange
        name = exchange.backend.name
        if connection.status not in REFUSED:
            if self._plain and 200 <= connection.status < 300:
                exchange.plant.refuse_injection.add(name)
            return False
        plain = None
        if exchange.engine.stream_options_rejected and not self._plain:
            plain = without_injection(self._content, exchange.request, exchange.engine)
        if plain is None:
            return False
        self._content, self._plain = plain, True
        exchange.engine = exchange.engine.unasked
        exchange.plant.upstream.release(exchange.backend, connection)
        exchange.attach(None)
        return True

    def _refusal(self, connection: UpstreamConnection) -> str | None:
        """Why another backend should answer instead, or None."""
        if connection.status == OVERLOADED or connection.status in GATEWAY_FAILED:
            return f"refused_{connection.status}"
        if connection.status == 200 and connection.ended and connection.answer.stream:
            return "empty_answer"
        return None

    def _retried(
        self,
        reason: str,
        *,
        another_model: bool = False,
        answered: bool = False,
        rest_us: int = 0,
    ) -> bool:
        """Record a failed attempt if another one follows it; whether one does.

        Args:
            another_model: only a fallback may follow.
            answered: the backend works, though it did not serve this.
            rest_us: the time for which it asked to be left alone.
        """
        exchange = self._exchange
        if exchange.stopped is not None or exchange.client.lost:
            return False
        at_us = now_us()
        if answered:
            self._seat.answered()
        else:
            self._seat.failed(at_us, rest_us=rest_us)
        self._failed.add(exchange.backend.name)
        if another_model:
            self._deadline_us = at_us
        placement = self._next(at_us) if self._left else None
        if placement is None:
            return False
        failed = self._attempted(reason if exchange.reached else UNREACHED, at_us)
        exchange.attempts.append(failed)
        if exchange.reached:
            self._worked = failed, exchange.model, exchange.backend
        else:
            exchange.course.waited_us += failed.duration_us
        exchange.attach(None)
        self._place(placement, at_us)
        # Written again with every failure, so that a crash keeps the rows and names the backend
        # that has it now.
        if exchange.billed:
            exchange.plant.write_soon(exchange.intent())
        return True

    def _give_up(self, reason: str) -> None:
        """Journal that nothing came of it: the last attempt that reached a backend is the void."""
        exchange = self._exchange
        if exchange.reached:
            exchange.void(reason)
        elif self._worked is not None:
            failed, model, backend = self._worked
            exchange.attempts.remove(failed)
            exchange.model, exchange.backend = model, backend
            exchange.void(failed.reason)
        elif exchange.request.stream or exchange.attempts:
            exchange.void(UNREACHED)  # only so that its intent is not left open

    def _attempted(self, reason: str, ended_us: int) -> Attempted:
        exchange = self._exchange
        return Attempted(
            ordinal=len(exchange.attempts),
            model_id=exchange.model.id,
            backend=exchange.backend.name,
            at_us=self._at_us,
            duration_us=ended_us - self._began_us,
            reason=reason,
        )

    def _next(self, at_us: int) -> _Placement | None:
        """The next place that there is: in the pool of the model at hand, then of a fallback.

        Raises:
            InvalidInput: nothing was tried yet, and no engine of the pool takes the request.
        """
        pools = self._exchange.plant.pools
        while True:
            model = self._models[self._position]
            while not self._deadline_us or at_us < self._deadline_us:
                backend = pools.choose(model, without=self._failed, now_us=at_us)
                if backend is None:
                    break
                try:
                    content = body_for(self._exchange, backend, model)
                except InvalidInput as refusal:
                    self._refused_by_engine = anew(refusal)
                    self._failed.add(backend.name)
                    continue
                return _Placement(model, backend, engine_named(backend.engine), content)
            if self._refused_by_engine is not None and not self._at_us:
                raise anew(self._refused_by_engine)
            if self._position + 1 == len(self._models):
                return None
            self._position += 1
            self._deadline_us = 0
            self._failed.clear()

    def _place(self, placement: _Placement, at_us: int) -> None:
        model, backend, engine, content = placement
        self._left -= 1
        self._content, self._plain = content, False
        if backend.name in self._exchange.plant.refuse_injection:
            plain = without_injection(content, self._exchange.request, engine)
            self._plain = True
            if plain is not None:
                self._content, engine = plain, engine.unasked
        if not self._deadline_us:
            self._deadline_us = at_us + 1000 * (backend.first_byte_ms or self._first_byte_ms)
        self._exchange.place(model, backend, engine)
