"""What became of attempts to renew the snapshot, as Prometheus reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric

from api.proxy.telemetry.counted import counter


@dataclass(slots=True)
class SnapshotCounts:
    """Refused snapshots.

    Attributes:
        refused: by why: the code of an error, that the database is away, or a defect.
        unusable: what the database says now cannot be used; the last snapshot lives on.
    """

    refused: Counter[str] = field(default_factory=Counter[str])
    unusable: bool = False

    def collect(self) -> Iterator[Metric]:
        """As metrics."""
        yield counter(
            "steelyard_proxy_snapshots_refused",
            "Snapshots of keys, contracts and limits that were not taken over, by reason.",
            ("reason",),
            self.refused,
        )
        unusable = GaugeMetricFamily(
            "steelyard_proxy_snapshot_unusable",
            "1 while contracts or limits cannot be used as they are and the last ones live on.",
        )
        unusable.add_metric((), self.unusable)
        yield unusable
