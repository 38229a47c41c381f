"""Which requests become spans, and what is kept of one until they are exported.

Decides: a trace that comes with a request is recorded if its client records it; of those that
begin here, a share. Metrics count every request. Does not decide how either is written
(`spans.py`, `exported_metrics.py`), nor when it leaves (`otlp.py`).
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import Final

import msgspec

from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.telemetry.exported_metrics import TokenUsage
from api.proxy.telemetry.otlp import Exporter
from api.proxy.telemetry.spans import TracedAttempt, TracedRequest
from api.proxy.telemetry.stored_course import StoredCourse
from api.proxy.telemetry.stored_spans import TracedStored
from api.proxy.telemetry.trace_context import Trace, read_trace_context
from api.proxy.upstream import now_us
from billing.admission.backend import Backend, ServedModel
from billing.journal.records import Attempted

_RANDOM_BITS: Final = 56
_NO_FAILURES: Final = frozenset({"", "client_left"})
_GOOD_CAUSES: Final = frozenset({"completed", "client_left"})


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A request that is over, whatever became of it.

    Attributes:
        began_at_us, at_us: µs since 1970 UTC.
        route: its path.
        failure: code of the error that the client was told, or empty.
    """

    operation_id: bytes
    began_at_us: int
    at_us: int
    route: str
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
            return Trace(operation_id, context, context.sampled)
        # The same bits decide everywhere, so that a trace is whole or not there.
        return Trace(operation_id, None, int.from_bytes(operation_id[9:]) >= self._rejected)

    def end(self, ended: Ended, asked: ClientRequest, exchange: Exchange | None) -> None:
        """Count it, and keep what its spans need; `exchange` is None if it was refused before
        there was one."""
        if exchange is None:
            trace = self.trace(ended.operation_id, asked)
            if trace.recorded:
                self._exporter.offer(_refused(ended, asked, trace))
            return
        told = exchange.told
        if told is not None:
            counts = told.counts
            self._usage.add(
                ended.route,
                exchange.model.name,
                counts.input + counts.cached_input + counts.cache_write,
                counts.output,
            )
        trace = exchange.trace
        if trace is None or not trace.recorded:
            return
        error, status = ended.failure or _error_of(exchange, asked.status), asked.status
        self._exporter.offer(
            TracedRequest(
                trace=trace,
                began_at_us=ended.began_at_us,
                duration_us=max(0, ended.at_us - ended.began_at_us),
                route=ended.route,
                model=exchange.admission.model.name,
                served="" if told is None else exchange.model.name,
                stream=exchange.request.stream,
                status=status,
                error=error,
                failed=_is_failure(error, status),
                told=told,
                run=exchange.run,
                attempts=_attempts(exchange, ended.began_at_us),
            )
        )

    def end_stored(self, ended: Ended, asked: ClientRequest, course: StoredCourse) -> None:
        """Keep what the spans of a request about stored objects need."""
        trace, status = course.trace, asked.status
        if trace is None or not trace.recorded:
            return
        error = ended.failure or (str(status) if status >= 400 else "")
        self._exporter.offer(
            TracedStored(
                trace=trace,
                method=asked.method.decode("ascii"),
                route=ended.route,
                began_at_us=ended.began_at_us,
                began_us=course.began_us,
                duration_us=max(0, ended.at_us - ended.began_at_us),
                status=status,
                error=error,
                failed=_is_failure(error, status),
                calls=tuple(course.calls),
            )
        )


def _refused(ended: Ended, asked: ClientRequest, trace: Trace) -> TracedRequest:
    return TracedRequest(
        trace=trace,
        began_at_us=ended.began_at_us,
        duration_us=max(0, ended.at_us - ended.began_at_us),
        route=ended.route,
        status=asked.status,
        error=ended.failure,
        failed=_is_failure(ended.failure, asked.status),
    )


def _is_failure(error: str, status: int) -> bool:
    """What the client did or could have avoided is no failure of a server."""
    return error not in _NO_FAILURES and not 400 <= status < 500


def _error_of(exchange: Exchange, status: int) -> str:
    """What went wrong with a request that was answered; empty for nothing."""
    if exchange.told is not None:
        return "" if exchange.told.cause == "completed" else exchange.told.cause
    if exchange.voided and exchange.voided != "upstream_refused":
        return exchange.voided
    return str(status) if status >= 400 else ""


def _attempts(exchange: Exchange, began_at_us: int) -> tuple[TracedAttempt, ...]:
    """Those that failed, then the last one."""
    course = exchange.course
    failed = tuple(map(partial(_failed, exchange), exchange.attempts)) if exchange.attempts else ()
    if not course.attempt_us:
        return failed
    ended_us = max(course.heard_us or now_us(), course.attempt_us)
    error = exchange.voided
    if exchange.told is not None and exchange.told.cause not in _GOOD_CAUSES:
        error = exchange.told.cause
    last = TracedAttempt(
        exchange.model.name,
        exchange.backend.name,
        exchange.backend.engine,
        exchange.backend.base_url,
        began_at_us + course.attempt_us - course.received_us,
        ended_us - course.attempt_us,
        error,
    )
    return (*failed, last)


def _failed(exchange: Exchange, attempt: Attempted) -> TracedAttempt:
    model, backend = _found(exchange, attempt.model_id, attempt.backend)
    return TracedAttempt(
        "" if model is None else model.name,
        attempt.backend,
        "" if backend is None else backend.engine,
        "" if backend is None else backend.base_url,
        attempt.at_us,
        attempt.duration_us,
        attempt.reason,
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
