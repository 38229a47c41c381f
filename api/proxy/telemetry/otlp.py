"""Export to an OpenTelemetry collector: OTLP over HTTP, as JSON.

Decides: that nothing waits for a collector. What was recorded waits in a queue of fixed size for
a task that sends it; what does not fit is dropped and counted, and so is what a collector refuses.
A collector that is away, overloaded or slow is asked again, with what was to be sent, later each
time; the requests that are served meanwhile never know. Usage has nothing to do with it: it is in
the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from prometheus_client.core import Metric

from api.proxy.ports import Clock
from api.proxy.telemetry import conventions as names
from api.proxy.telemetry.counted import counter
from api.proxy.telemetry.exported_metrics import Interval
from api.proxy.telemetry.spans import TracedRequest, spans_of, text
from api.proxy.telemetry.stored_spans import TracedStored, stored_spans_of
from billing.errors import ConfigurationError

log = logging.getLogger("steelyard.proxy")

QUEUED_REQUESTS: Final = 10_000
BATCH_REQUESTS: Final = 512
SLICE_REQUESTS: Final = 32
"""Encoded in one turn of the loop: about 0.3 ms, in which nothing else is served."""

_TRY_AGAIN: Final = frozenset({429, 502, 503, 504})
_ANSWER_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often, in ms.

    Attributes:
        spans, metrics: between exports.
        answer: how long a collector may take to answer.
        first_pause, longest_pause: before it is asked again; each pause is twice the one before.
        stop: how long the last export may take when the process stops.
    """

    spans: int = 1_000
    metrics: int = 15_000
    answer: int = 10_000
    first_pause: int = 1_000
    longest_pause: int = 30_000
    stop: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where to, and as whom.

    Attributes:
        endpoint: `http://host:4318`; `/v1/traces` and `/v1/metrics` are put behind it.
        headers: sent with every export; may be secret.
        instance: of the process.
    """

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    instance: str = ""


class _PartialSuccess(msgspec.Struct):
    rejected_spans: str | int = msgspec.field(name="rejectedSpans", default=0)


class _Answer(msgspec.Struct):
    partial: _PartialSuccess | None = msgspec.field(name="partialSuccess", default=None)


class Exporter:
    """Of one process; `exporting` runs it.

    Attributes:
        dropped: requests whose spans were dropped, by reason.
    """

    def __init__(self, collector: Collector, *, clock: Clock, pace: Pace | None = None) -> None:
        self.collector = collector
        self.pace = pace or Pace()
        self._clock = clock
        self._queue: deque[TracedRequest | TracedStored] = deque()
        self._metrics: Callable[[Interval], bytes] | None = None
        self._began_at_us = clock()
        self._stopping = asyncio.Event()
        self._full = asyncio.Event()
        self._well = True
        self.dropped: Counter[str] = Counter()
        resource = b",".join(
            (
                text(names.SERVICE_NAME, "steelyard-proxy"),
                text(names.SERVICE_INSTANCE, collector.instance),
            )
        )
        self._resource = b'{"attributes":[%b]}' % resource
        self._scope = b'{"name":"%b"}' % names.SCOPE.encode()

    def tell(self, metrics: Callable[[Interval], bytes]) -> None:
        """Export metrics as well.

        Args:
            metrics: OTLP's JSON of every metric, with commas between them.
        """
        self._metrics = metrics

    def offer(self, request: TracedRequest | TracedStored) -> None:
        """Queue the spans of a request; they are dropped if the queue is full."""
        if len(self._queue) >= QUEUED_REQUESTS:
            self.dropped["queue_full"] += 1
            return
        self._queue.append(request)
        if len(self._queue) >= BATCH_REQUESTS:
            self._full.set()

    @property
    def queued(self) -> int:
        """Requests whose spans wait."""
        return len(self._queue)

    def collect(self) -> Iterable[Metric]:
        """What was dropped, for Prometheus."""
        yield counter(
            "steelyard_proxy_telemetry_dropped",
            "Requests whose spans were dropped, by reason.",
            ("reason",),
            self.dropped,
        )

    async def run(self, client: httpx.AsyncClient) -> None:
        """Export until `stop`, and then what is left, once."""
        metrics = asyncio.create_task(self._run_metrics(client))
        try:
            while not self._stopping.is_set():
                await self._wait(self._full, self.pace.spans)
                self._full.clear()
                while self._queue and not self._stopping.is_set():
                    await self._export_batch(client)
            while self._queue:
                await self._export_batch(client)
            if self._metrics is not None:
                await self._export_metrics(client, self._metrics)
        finally:
            metrics.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await metrics

    def stop(self) -> None:
        """Wake `run` for its last export."""
        self._stopping.set()
        self._full.set()

    async def _export_batch(self, client: httpx.AsyncClient) -> None:
        batch = [self._queue.popleft() for _ in range(min(BATCH_REQUESTS, len(self._queue)))]
        parts: list[bytes] = []
        for start in range(0, len(batch), SLICE_REQUESTS):
            parts += filter(None, map(self._written, batch[start : start + SLICE_REQUESTS]))
            await asyncio.sleep(0)
        content = (
            b'{"resourceSpans":[{"resource":%b,"scopeSpans":[{"scope":%b,"spans":[%b]}]}]}'
            % (
                self._resource,
                self._scope,
                b",".join(parts),
            )
        )
        pause_ms = self.pace.first_pause
        while not await self._sent(client, "/v1/traces", content, len(batch)):
            if self._stopping.is_set():
                self.dropped["collector_away"] += len(batch)
                return
            await self._wait(self._stopping, pause_ms)
            pause_ms = min(2 * pause_ms, self.pace.longest_pause)

    def _written(self, request: TracedRequest | TracedStored) -> bytes:
        try:
            match request:
                case TracedRequest():
                    return spans_of(request)
                case TracedStored():
                    return stored_spans_of(request)
        except Exception as error:  # noqa: BLE001  # one request's spans, not the export of all
            log.error("spans cannot be written: %s", type(error).__name__)  # noqa: TRY400
            self.dropped["unwritable"] += 1
            return b""

    async def _run_metrics(self, client: httpx.AsyncClient) -> None:
        while self._metrics is not None:
            await asyncio.sleep(self.pace.metrics / 1000)
            await self._export_metrics(client, self._metrics)

    async def _export_metrics(
        self, client: httpx.AsyncClient, metrics: Callable[[Interval], bytes]
    ) -> None:
        """Sums are cumulative: what does not arrive now is in the next ones."""
        told = metrics(Interval(self._began_at_us, self._clock()))
        if told:
            content = (
                b'{"resourceMetrics":[{"resource":%b,"scopeMetrics":[{"scope":%b,"metrics":[%b]}]}]}'
            ) % (self._resource, self._scope, told)
            await self._sent(client, "/v1/metrics", content, 0)

    async def _sent(
        self, client: httpx.AsyncClient, path: str, content: bytes, requests: int
    ) -> bool:
        """Whether it is done with: taken, or refused for good; False: it can be sent again."""
        url = self.collector.endpoint.rstrip("/") + path
        try:
            async with (
                asyncio.timeout(self.pace.answer / 1000),
                client.stream("POST", url, content=content) as answer,
            ):
                status, told = answer.status_code, b""
                async for part in answer.aiter_raw():
                    told += part
                    if len(told) > _ANSWER_BYTES:
                        told = b""
                        break
        except (httpx.HTTPError, httpx.StreamError, OSError) as error:
            self._note(type(error).__name__)
            return False
        if status in _TRY_AGAIN:
            self._note(f"status {status}")
            return False
        if not 200 <= status < 300:
            self._note(f"status {status}")
            if requests:
                self.dropped["refused"] += requests
            return True
        self._note("")
        if rejected := min(requests, _rejected(told)):
            self.dropped["refused"] += rejected
        return True

    def _note(self, trouble: str) -> None:
        """Log the first failure and the end of it, not each."""
        if trouble and self._well:
            log.warning("the collector takes no telemetry: %s", trouble)
        elif not trouble and not self._well:
            log.info("the collector takes telemetry again")
        self._well = not trouble

    async def _wait(self, event: asyncio.Event, wait_ms: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                await event.wait()


@contextlib.asynccontextmanager
async def exporting(exporter: Exporter | None) -> AsyncGenerator[None]:
    """Export inside a block; its end sends what is queued, if the collector takes it in time.
    Without an exporter nothing is."""
    if exporter is None:
        yield
        return
    pace = exporter.pace
    async with httpx.AsyncClient(
        headers={**exporter.collector.headers, "content-type": "application/json"},
        timeout=pace.answer / 1000,
        trust_env=False,
        follow_redirects=False,
    ) as client:
        task = asyncio.create_task(exporter.run(client))
        try:
            yield
        finally:
            exporter.stop()
            try:
                async with asyncio.timeout(pace.stop / 1000):
                    await task
            except TimeoutError:
                log.warning("the last telemetry was dropped: the collector was too slow")


def _rejected(answer: bytes) -> int:
    """Spans of an accepted export that the collector did not take."""
    try:
        told = msgspec.json.decode(answer, type=_Answer)
        return 0 if told.partial is None else max(0, int(told.partial.rejected_spans))
    except (msgspec.MsgspecError, ValueError):
        return 0


def checked_endpoint(endpoint: str) -> str:
    """The address of a collector.

    Raises:
        ConfigurationError: not an http or https URL with a host.
    """
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
        usable = usable and not (url.query or url.fragment)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            "The address of the collector is not a usable URL.",
            field="STEELYARD_OTLP_ENDPOINT",
            remedy="Write it as http://host:4318, without /v1/traces.",
        )
    return endpoint


def read_headers(written: str) -> dict[str, str]:
    """`name=value,name=value`, values as in URLs, as OpenTelemetry's own variable has them.

    Raises:
        ConfigurationError: another form. No value is repeated.
    """
    headers: dict[str, str] = {}
    for pair in written.split(","):
        if not pair.strip():
            continue
        name, equals, value = pair.partition("=")
        text_value = unquote(value.strip())
        if not equals or not _is_name(name.strip()) or not _is_value(text_value):
            raise ConfigurationError(
                "The headers for the collector cannot be read.",
                field="STEELYARD_OTLP_HEADERS",
                remedy="Write them as name=value,name=value, special characters as in a URL.",
            )
        headers[name.strip().lower()] = text_value
    return headers


def _is_value(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _is_name(name: str) -> bool:
    return bool(name) and name.isascii() and name.replace("-", "").replace("_", "").isalnum()
