"""What became of batches, as metrics: read from the ledger's database when they are asked for.

A process that counted for itself would forget with a restart which results are lost.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from billing.store.batch_settlement import BatchTotals, batch_totals
from billing.store.database import Database, Role


class BatchMetrics(Collector):
    """Batches by backend and state, and their lines; nothing while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        """Read them now."""
        try:
            with self._database.transaction(Role.OPERATOR) as connection:
                totals = batch_totals(connection)
        except OperationalError:
            return
        yield from _families(totals)


def _families(totals: list[BatchTotals]) -> Iterator[Metric]:
    runs = GaugeMetricFamily(
        "steelyard_batch_runs",
        "Batches by state: open, billed, or lost with results that the backend has no more.",
        labels=("backend", "state"),
    )
    problems = GaugeMetricFamily(
        "steelyard_batch_problems",
        "Batches that do not add up, or cannot be asked for.",
        labels=("backend", "state"),
    )
    lines = CounterMetricFamily(
        "steelyard_batch_lines",
        "Lines of results: each is an event, an error that costs nothing, or unreadable.",
        labels=("backend", "outcome"),
    )
    anomalies = CounterMetricFamily(
        "steelyard_batch_anomalies",
        "Lines that are billed by less than they should have said, or under an unknown model.",
        labels=("backend",),
    )
    for each in totals:
        runs.add_metric((each.backend, each.state), each.batches)
        problems.add_metric((each.backend, each.state), each.problems)
    for backend in sorted({each.backend for each in totals}):
        counted = [each.counted for each in totals if each.backend == backend]
        lines.add_metric((backend, "event"), sum(each.events for each in counted))
        lines.add_metric((backend, "error"), sum(each.errors for each in counted))
        lines.add_metric((backend, "unreadable"), sum(each.unreadable for each in counted))
        anomalies.add_metric((backend,), sum(each.anomalies for each in counted))
    yield from (runs, problems, lines, anomalies)
