"""Counters of the control plane.

Labels are route templates, methods, statuses and names of backends: their number is bounded, and
none is a tenant's. Leakage is read from the database at each scrape; while it is away the figure is
left out, since an old one would look like a new one.
"""

from __future__ import annotations

from collections.abc import Iterator

from litestar.types import Message, Scope
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.batch_metrics import BatchMetrics
from api.deployment import Clock
from api.rating_metrics import RatingMetrics
from api.stored_metrics import StoredMetrics
from billing.metering.leakage import Reconciled, leakage
from billing.operations.leakage.read_leakage import newest_leakage
from billing.store.database import Database, Role

UNMATCHED = "unmatched"


class Metrics:
    """What one app has answered. Every app counts for itself."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, database: Database, clock: Clock) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Leakage(database, clock))
        self._answers = Counter(
            "steelyard_api_requests",
            "Requests that were answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        deadlocks = Gauge(
            "steelyard_api_deadlocks_retried",
            "Transactions that were run again after a deadlock.",
            registry=self._registry,
        )
        deadlocks.set_function(lambda: database.deadlocks)
        self._registry.register(BatchMetrics(database, clock))
        self._registry.register(RatingMetrics(database, clock))
        self._registry.register(StoredMetrics(database))

    async def count(self, message: Message, scope: Scope) -> None:
        """Count an answer when its head is sent."""
        if message["type"] == "http.response.start" and scope["type"] == "http":
            self._answers.labels(
                scope.get("path_template") or UNMATCHED, scope["method"], str(message["status"])
            ).inc()

    def text(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self._registry)


class _Leakage(Collector):
    """The newest complete hour of each backend, in which that many of its tokens leaked."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: what is here would be asked for while the app is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read it."""
        ratio = GaugeMetricFamily(
            "steelyard_leakage_ratio",
            "1 - ledger / engine, in tokens, of the newest complete hour.",
            labels=("backend",),
        )
        began = GaugeMetricFamily(
            "steelyard_leakage_hour_timestamp_seconds",
            "When that hour began.",
            labels=("backend",),
        )
        for row in self._newest():
            leaked = leakage([row])
            if leaked is not None:
                ratio.add_metric((row.backend,), float(leaked))
                began.add_metric((row.backend,), row.hour.timestamp())
        yield ratio
        yield began

    def _newest(self) -> list[Reconciled]:
        try:
            with self._database.transaction(Role.OPERATOR) as connection:
                return newest_leakage(connection, now=self._clock())
        except SQLAlchemyError:
            return []
