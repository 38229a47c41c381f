"""Counters of the control plane.

Labels are route templates, methods and statuses: their number is bounded, and none is a tenant's.
"""

from __future__ import annotations

from litestar.types import Message, Scope
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from billing.store.database import Database

UNMATCHED = "unmatched"


class Metrics:
    """What one app has answered. Every app counts for itself."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
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

    async def count(self, message: Message, scope: Scope) -> None:
        """Count an answer when its head is sent."""
        if message["type"] == "http.response.start" and scope["type"] == "http":
            self._answers.labels(
                scope.get("path_template") or UNMATCHED, scope["method"], str(message["status"])
            ).inc()

    def text(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self._registry)
