"""Which requests become spans, and what is kept of one until they are exported.

Decides: a trace that comes with a request is recorded if its client records it; of those that
begin here, a share. Metrics count every request. Does not decide how either is written
(`spans.py`, `exported_metrics.py`), nor when it leaves (`otlp.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import msgspec

from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.telemetry.exported_metrics import TokenUsage
from api.proxy.telemetry.otlp import Exporter
from api.proxy.telemetry.spans import TracedAttempt, TracedRequest
from api.proxy.telemetry.trace_context import Trace, begun, continued, read_trace_context
from api.proxy.upstream import now_us
from billing.admission.backend import Backend, ServedModel
from billing.admission.route import Route

_RANDOM_BITS: Final = 56


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request that is over, whatever became of it.

    Attributes:
        began_at_us, at_us: µs since 1970 UTC.
        failure: code of the error that the client was told, or empty.
    """

    operation_id: bytes
    began_at_us: int
    at_us: int
    route: Route
    failure: str


class Recorder:
    """Of one process."""

    def __init__(self, exporter: Exporter, usage: TokenUsage, *, share: Decimal) -> None:
        """
        Args:
            usage: counts the tokens of every request.
            share: 0 to 1, of the traces that begin here.
        """
        self._exporter = exporter
        self._usage = usage
        self._rejected = int((1 - share) * (1 << _RANDOM_BITS))

    def trace(self, operation_id: bytes, asked: ClientRequest) -> Trace:
        """A request's place in a trace. Nothing in the headers is an error."""
        context = read_trace_context(asked)
        if context is not None:
            return continued(context, operation_id)
        # The same bits decide everywhere, so that a trace is whole or not there.
        recorded = int.from_bytes(operation_id[9:]) >= self._rejected
        return begun(operation_id, recorded=recorded)

    def end(self, ended: Ended, asked: ClientRequest, exchange: Exchange | None) -> None:
        """Count it, and keep what its spans need; `exchange` is None if it was refused before
        there was one."""
        if exchange is not None and exchange.told is not None:
            counts = exchange.told.counts
            self._usage.add(
                ended.route.spec.path,
                exchange.model.name,
                counts.input + counts.cached_input + counts.cache_write,
                counts.output,
            )
        trace = exchange.trace if exchange is not None else None
        if trace is None:
            trace = self.trace(ended.operation_id, asked)
        if not trace.recorded:
            return
        error, status = ended.failure or _error_of(exchange, asked.status), asked.status
        self._exporter.offer(
            TracedRequest(
                operation_id=ended.operation_id,
                trace=trace,
                began_at_us=ended.began_at_us,
                duration_us=max(0, ended.at_us - ended.began_at_us),
                route=ended.route,
                model="" if exchange is None else exchange.admission.model.name,
                served="" if exchange is None or exchange.told is None else exchange.model.name,
                stream=exchange is not None and exchange.request.stream,
                status=status,
                error=error,
                # What the client did or could have avoided is no failure of a server.
                failed=error not in {"", "client_left"} and not 400 <= status < 500,
                told=None if exchange is None else exchange.told,
                run=None if exchange is None else exchange.run,
                attempts=() if exchange is None else tuple(_attempts(exchange, ended.began_at_us)),
            )
        )


def _error_of(exchange: Exchange | None, status: int) -> str:
    """What went wrong with a request that was answered; empty for nothing."""
    if exchange is not None:
        if exchange.told is not None:
            return "" if exchange.told.cause == "completed" else exchange.told.cause
        if exchange.voided and exchange.voided != "upstream_refused":
            return exchange.voided
    return str(status) if status >= 400 else ""


def _attempts(exchange: Exchange, began_at_us: int) -> Iterator[TracedAttempt]:
    """Those that failed, then the last one."""
    course = exchange.course
    for failed in exchange.attempts:
        model, backend = _found(exchange, failed.model_id, failed.backend)
        yield TracedAttempt(
            "" if model is None else model.name,
            failed.backend,
            "" if backend is None else backend.engine,
            "" if backend is None else backend.base_url,
            failed.at_us,
            failed.duration_us,
            failed.reason,
        )
    if not course.attempt_us:
        return
    ended_us = max(course.heard_us or now_us(), course.attempt_us)
    error = exchange.voided
    if exchange.told is not None and exchange.told.cause not in {"completed", "client_left"}:
        error = exchange.told.cause
    yield TracedAttempt(
        exchange.model.name,
        exchange.backend.name,
        exchange.backend.engine,
        exchange.backend.base_url,
        began_at_us + course.attempt_us - course.received_us,
        ended_us - course.attempt_us,
        error,
    )


def _found(
    exchange: Exchange, model_id: int, backend: str
) -> tuple[ServedModel | None, Backend | None]:
    """The model and backend of an attempt that failed, if they are still at hand."""
    for model in (exchange.admission.model, exchange.model):
        if model.id == model_id:
            for one in model.backends:
                if one.name == backend:
                    return model, one
            return model, None
    return None, None
