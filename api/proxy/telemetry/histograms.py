"""How long requests take, by route and model; those about stored objects, by method and route.

Decides: the bounds, and that the only labels are the route with its served model or method, all of
the operator's choosing or ours: what clients send can make no new series. Whole numbers until they
are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import Metric

MICROSECONDS: Final = 1_000_000
BOUNDS_US: Final = (
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 120_000_000, 600_000_000,
)  # fmt: skip
_LE: Final = (*(str(bound / MICROSECONDS) for bound in BOUNDS_US), "+Inf")


Series = tuple[str, str]
"""Values of both labels."""


class Histogram:
    """Durations by two labels."""

    __slots__ = ("_documentation", "_labels", "_name", "_series")

    def __init__(
        self, name: str, documentation: str, labels: tuple[str, str] = ("route", "model")
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        # Durations per bucket, then their sum.
        self._series: dict[Series, list[int]] = {}

    def observe(self, series: Series, duration_us: int) -> None:
        """Count one duration; one that equals a bound lies under it."""
        counts = self._series.get(series)
        if counts is None:
            counts = self._series[series] = [0] * (len(_LE) + 1)
        counts[bisect_left(BOUNDS_US, duration_us)] += 1
        counts[-1] += duration_us

    def series(self) -> Iterator[tuple[str, str, list[int], int]]:
        """Both labels, durations per bucket (the last has no bound), and their sum in µs."""
        for (first, second), counts in self._series.items():
            yield first, second, counts[:-1], counts[-1]

    def collect(self) -> Metric:
        """In Prometheus' shape: buckets are cumulative, in seconds."""
        metric = Metric(self._name, self._documentation, "histogram")
        for first, second, counts, sum_us in self.series():
            labels = dict(zip(self._labels, (first, second), strict=True))
            running = 0
            for le, count in zip(_LE, counts, strict=True):
                running += count
                metric.add_sample(f"{self._name}_bucket", {**labels, "le": le}, running)
            metric.add_sample(f"{self._name}_count", labels, running)
            seconds = sum_us / MICROSECONDS
            metric.add_sample(f"{self._name}_sum", labels, seconds)
        return metric


class Durations:
    """The histograms of a process.

    Attributes:
        overhead: observed when an operation that was billed is over; those before it with its
            record.
        stored: requests about stored objects that were answered as they asked.
        stored_calls: what they asked of backends and got answered, whatever the answer.
    """

    __slots__ = (
        "first_token",
        "inter_token",
        "overhead",
        "queue",
        "stored",
        "stored_calls",
        "total",
    )

    def __init__(self) -> None:
        self.queue = Histogram(
            "steelyard_proxy_queue_seconds", "From a request's head to its dispatch."
        )
        self.first_token = Histogram(
            "steelyard_proxy_time_to_first_token_seconds",
            "From dispatch to the first byte of the answer's body.",
        )
        self.inter_token = Histogram(
            "steelyard_proxy_inter_token_seconds",
            "Mean time between the tokens of a stream, from its first byte to its last.",
        )
        self.total = Histogram(
            "steelyard_proxy_duration_seconds", "From a request's head to the record of its usage."
        )
        self.overhead = Histogram(
            "steelyard_proxy_overhead_seconds",
            "From a request's head to the end of its answer, less the time that the proxy waited "
            "for the backend or the client.",
        )
        self.stored = Histogram(
            "steelyard_proxy_stored_duration_seconds",
            "Of requests about stored objects, from the head to the end of the answer.",
            ("method", "route"),
        )
        self.stored_calls = Histogram(
            "steelyard_proxy_stored_call_seconds",
            "Of what requests about stored objects ask of backends, from dispatch to the end of "
            "the answer; the content of files passes meanwhile.",
            ("method", "route"),
        )

    def add(
        self,
        series: Series,
        *,
        queue_us: int,
        ttft_us: int,
        total_us: int,
        inter_token_us: int | None,
    ) -> None:
        """Count one operation that was billed.

        Args:
            ttft_us: 0 if nothing of the answer came.
            inter_token_us: mean of a stream; None if it is none, or has no two tokens.
        """
        self.queue.observe(series, queue_us)
        self.total.observe(series, total_us)
        if not ttft_us:
            return
        self.first_token.observe(series, ttft_us)
        if inter_token_us is not None:
            self.inter_token.observe(series, inter_token_us)

    def collect(self) -> Iterator[Metric]:
        """Every histogram."""
        yield self.queue.collect()
        yield self.first_token.collect()
        yield self.inter_token.collect()
        yield self.total.collect()
        yield self.overhead.collect()
        yield self.stored.collect()
        yield self.stored_calls.collect()
