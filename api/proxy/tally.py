"""Counters of the data plane, as Prometheus reads them.

Decides: what is counted, without tenant labels: who used what is the ledger's to say. Plain
numbers of one event loop, turned into metrics only when they are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from api.proxy.limit_errors import LimitReached
from api.proxy.telemetry.counted import counter
from api.proxy.telemetry.histograms import Durations
from billing.errors import JournalError
from billing.journal.records import Attempted
from billing.metering.token_class import TokenCounts


class Tally:
    """What this process has served since it started."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.events: Counter[tuple[str, bool]] = Counter()
        self.voids: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.anomalies: Counter[str] = Counter()
        self.estimates: Counter[str] = Counter()
        self.limits_reached: Counter[tuple[str, str]] = Counter()
        self.checkpoints = 0
        self.journal_refusals = 0
        self.dropped = 0
        self.in_flight = 0
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.durations = Durations()
        self._others: list[Callable[[], Iterable[Metric]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add_usage(self, counts: TokenCounts, cause: str, *, estimated: bool) -> None:
        """Count one usage event."""
        self.events[cause, estimated] += 1
        tokens = self.tokens
        # Without a loop over the classes, which are of an Enum and 2 µs slower.
        if counts.input:
            tokens["input"] += counts.input
        if counts.cached_input:
            tokens["cached_input"] += counts.cached_input
        if counts.cache_write:
            tokens["cache_write"] += counts.cache_write
        if counts.output:
            tokens["output"] += counts.output

    def add_attempts(self, attempts: Iterable[Attempted]) -> None:
        """Count the attempts of an operation that failed."""
        for attempt in attempts:
            self.attempts[attempt.backend, attempt.reason] += 1

    def add_refusal(self, refusal: Exception) -> None:
        """Count a request that a limit refused, or ended in the middle of its answer."""
        if isinstance(refusal, LimitReached):
            self.limits_reached[refusal.limit.unit.value, "hard"] += 1

    @contextmanager
    def refusals(self, records: int = 1, *, dropped: int = 0) -> Generator[None]:
        """Count what the journal refuses to write, and go on: no answer depends on it.

        Args:
            records: how many are written.
            dropped: how many of them are usage that nothing brings back.
        """
        try:
            yield
        except JournalError:
            self.journal_refusals += records
            self.dropped += dropped

    def include(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Tell what another part counts as well."""
        self._others.append(collect)

    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield counter(
            "steelyard_proxy_answers",
            "Answers by route and status.",
            ("route", "status"),
            {(route, str(status)): n for (route, status), n in self.answers.items()},
        )
        yield counter(
            "steelyard_proxy_usage_events",
            "Usage events by cause.",
            ("cause", "estimated"),
            {(cause, str(flag).lower()): n for (cause, flag), n in self.events.items()},
        )
        yield counter("steelyard_proxy_voids", "Unbilled dispatches.", ("reason",), self.voids)
        yield counter("steelyard_proxy_tokens", "Tokens metered.", ("class",), self.tokens)
        yield counter(
            "steelyard_proxy_usage_anomalies",
            "Usage reports of engines that did not add up, by kind.",
            ("kind",),
            self.anomalies,
        )
        yield counter(
            "steelyard_proxy_estimates",
            "Usage events that were not exact, by engine.",
            ("engine",),
            self.estimates,
        )
        yield counter(
            "steelyard_proxy_limits_reached",
            "Requests that found a limit reached: refused (hard), or only told (soft, shadow).",
            ("unit", "kind"),
            self.limits_reached,
        )
        yield counter(
            "steelyard_proxy_failed_attempts",
            "Attempts that another one followed, by backend and reason.",
            ("backend", "reason"),
            self.attempts,
        )
        yield counter("steelyard_proxy_checkpoints", "Checkpoints.", (), {(): self.checkpoints})
        yield counter(
            "steelyard_proxy_journal_refusals",
            "Records that the journal could not make durable.",
            (),
            {(): self.journal_refusals},
        )
        yield counter(
            "steelyard_proxy_dropped",
            "Usage that was given up although it had been delivered; 0, or there is a defect.",
            (),
            {(): self.dropped},
        )
        in_flight = GaugeMetricFamily("steelyard_proxy_in_flight", "Requests being served.")
        in_flight.add_metric((), self.in_flight)
        yield in_flight
        yield from self.durations.collect()
        for collect in self._others:
            yield from collect()
