"""What became of objects that backends kept, as metrics: counted where they leave, read when asked
for, so that a worker that starts again has forgotten none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import OperationalError

from billing.store.database import Database, Role
from billing.store.object_retention import gone_totals


class StoredMetrics(Collector):
    """Objects that left, by kind and fate; nothing while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Sequence[Metric]:
        """Nothing: what is here would be asked for while the app is made."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read them now."""
        try:
            with self._database.transaction(Role.OPERATOR) as connection:
                totals = gone_totals(connection)
        except OperationalError:
            return
        gone = CounterMetricFamily(
            "steelyard_stored_objects_gone",
            "Objects of backends that were over (expired), and whose rows have left (removed).",
            labels=("kind", "fate"),
        )
        for kind, fate, objects in totals:
            gone.add_metric((kind, fate), objects)
        yield gone
