"""What became of batches, as metrics: read from the ledger's database when they are asked for.

A process that counted for itself would forget with a restart which results are lost. What was
billed more than an hour ago is read once and added to: it changes no more, and a scrape must not
take longer with every batch that ever ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from threading import Lock

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from api.deployment import Clock
from billing.store.batch_settlement import BatchTotals, billed_totals, unbilled_totals
from billing.store.database import Database, Role

SETTLED_AFTER = timedelta(hours=1)
"""By then every transaction has committed that noted a batch as billed."""


class BatchMetrics(Collector):
    """Batches by backend and state, and their lines; nothing while the database is away."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._settled: list[BatchTotals] = []
        self._settled_before: datetime | None = None
        self._lock = Lock()  # scrapes come in threads

    def collect(self) -> Iterator[Metric]:
        """Read them now."""
        try:
            with self._lock:
                totals = self._read()
        except OperationalError:
            return
        yield from _families(totals)

    def _read(self) -> list[BatchTotals]:
        since, before = self._settled_before, self._clock() - SETTLED_AFTER
        if since is not None:
            before = max(since, before)  # a clock that was set back
        with self._database.transaction(Role.OPERATOR, snapshot=True) as connection:
            settled = billed_totals(connection, since=since, before=before)
            recent = billed_totals(connection, since=before)
            unbilled = unbilled_totals(connection)
        self._settled = _together([*self._settled, *settled])
        self._settled_before = before
        return _together([*self._settled, *recent, *unbilled])


def _together(totals: Sequence[BatchTotals]) -> list[BatchTotals]:
    found: dict[tuple[str, str], BatchTotals] = {}
    for each in totals:
        key = each.backend, each.state
        found[key] = found[key] + each if key in found else each
    return [found[key] for key in sorted(found)]


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
