"""Counters and gauges as Prometheus reads them, and those of the parts that count for themselves.

Decides: their names and labels. No label names a tenant, a key, a limit or what a client chose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from api.proxy.pools import PoolState


def counter(
    name: str,
    documentation: str,
    labels: tuple[str, ...],
    figures: Mapping[tuple[str, ...], int] | Mapping[str, int] | Mapping[tuple[()], int],
) -> CounterMetricFamily:
    """One counter; `name` is without `_total`."""
    metric = CounterMetricFamily(name, documentation, labels=labels)
    for key, count in figures.items():
        metric.add_metric((key,) if isinstance(key, str) else key, count)
    return metric


def pool_gauges(states: Iterable[PoolState]) -> Iterator[Metric]:
    """How the backends stand with this process."""
    in_flight = GaugeMetricFamily(
        "steelyard_proxy_backend_in_flight", "Requests that a backend has now.", labels=("backend",)
    )
    resting = GaugeMetricFamily(
        "steelyard_proxy_backend_resting",
        "1 while a backend has failed and has not answered since.",
        labels=("backend",),
    )
    for state in states:
        in_flight.add_metric((state.backend,), state.in_flight)
        resting.add_metric((state.backend,), state.resting)
    yield in_flight
    yield resting


@dataclass(slots=True)
class LeaseCounts:
    """What became of a process's leases.

    Attributes:
        calls: to the database, by what was asked and whether it answered.
        lost: leases that were ended while this process lived; it forgot them.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    lost: int = 0

    def collect(self) -> Iterator[Metric]:
        """As metrics."""
        yield counter(
            "steelyard_proxy_lease_calls",
            "Calls about leases, by what was asked and whether the database answered.",
            ("call", "outcome"),
            self.calls,
        )
        yield counter(
            "steelyard_proxy_lost_leases",
            "Leases that were swept under a process that lives.",
            (),
            {(): self.lost},
        )
