"""How far accruals are behind, as metrics: read from the database when they are asked for.

A process that counted for itself would forget with a restart which tenants cannot be rated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from api.deployment import Clock
from billing.operations.rating.accrue_due import rating_lag
from billing.store.accrual_queue import RatingLag
from billing.store.database import Database, Role


class RatingMetrics(Collector):
    """Lag, tenants that wait, and what stands in the way; nothing while the database is away."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def describe(self) -> list[Metric]:
        """Nothing: what is here would be asked for while the app is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read them now."""
        now = self._clock()
        try:
            with self._database.transaction(Role.OPERATOR) as connection:
                lag = rating_lag(connection, now=now)
        except OperationalError:
            return
        yield from _families(lag, now)


def _families(lag: RatingLag, now: datetime) -> Iterator[Metric]:
    waits = [lag.oldest_due_at] if lag.oldest_due_at else []
    if lag.epochs:
        waits.append(lag.taken_at)
    waited = max((now - since for since in waits), default=None)
    yield GaugeMetricFamily(
        "steelyard_rating_lag_epochs",
        "Batches of usage that no turn of rating has looked at.",
        value=lag.epochs,
    )
    yield GaugeMetricFamily(
        "steelyard_rating_lag_seconds",
        "How long the oldest change waits to be accrued.",
        value=0 if waited is None else max(0, waited.total_seconds()),
    )
    yield GaugeMetricFamily(
        "steelyard_rating_waiting_tenants", "Tenants whose accruals are due.", value=lag.waiting
    )
    problems = GaugeMetricFamily(
        "steelyard_rating_problem_tenants",
        "Tenants with usage that cannot be accrued, by code of the problem.",
        labels=("code",),
    )
    for code, tenants in lag.problems.items():
        problems.add_metric((code,), tenants)
    yield problems
    yield CounterMetricFamily(
        "steelyard_rating_accrued_periods",
        "Billing periods of tenants in which something new was posted.",
        value=lag.periods,
    )
    yield CounterMetricFamily(
        "steelyard_rating_failures", "Turns of single tenants that failed.", value=lag.failures
    )
