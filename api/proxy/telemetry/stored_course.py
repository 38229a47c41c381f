"""The calls to backends of one request about stored objects, as they go on.

Decides: what is noted of each, for its histogram and, where its trace is recorded, for its span;
and that a call which nobody waited for any more is no failure of its backend.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from api.proxy.headers import Headers
from api.proxy.telemetry.histograms import Histogram
from api.proxy.telemetry.stored_spans import ABANDONED, MOST_CALLS, StoredCall, route_of
from api.proxy.telemetry.trace_context import Trace
from api.proxy.upstream import now_us
from billing.admission.backend import Backend
from billing.errors import UpstreamError


class StoredCourse:
    """Of one request.

    Attributes:
        trace: None where none came and none is made.
        began_us: monotonic.
        calls: those that are told in spans; the first hundred, in order.
        abandoned: nobody waits for the calls that are under way.
    """

    def __init__(self, trace: Trace | None, durations: Histogram) -> None:
        """
        Args:
            durations: of calls that were answered.
        """
        self.trace = trace
        self.began_us = now_us()
        self._durations = durations
        self._begun = 0
        self.calls: list[StoredCall] = []
        self.abandoned = False

    def headers(self, call: StoredCall) -> Headers:
        """What the backend of a call is told of the trace."""
        return [] if self.trace is None else self.trace.for_backend(call.ordinal)

    @contextmanager
    def call(self, backend: Backend, method: str, path: str) -> Generator[StoredCall]:
        """Note a call that is made inside the block; its status is noted there.

        Args:
            path: with ids; only its route is kept.
        """
        call = StoredCall(method, route_of(method, path), backend, self._begun, now_us())
        self._begun += 1
        if self.trace is not None and self.trace.recorded and len(self.calls) < MOST_CALLS:
            self.calls.append(call)
        try:
            yield call
        except UpstreamError as error:
            call.error = ABANDONED if self.abandoned else error.code
            raise
        except BaseException:
            call.error = ABANDONED
            raise
        finally:
            call.duration_us = now_us() - call.began_us
            if not call.error:
                self._durations.observe((method, call.route), call.duration_us)
