"""The parts of an export to a collector, put together for one process."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from api.proxy.ports import Clock
from api.proxy.tally import Tally
from api.proxy.telemetry.exported_metrics import TokenUsage, metrics_of
from api.proxy.telemetry.otlp import Collector, Exporter, Pace
from api.proxy.telemetry.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Of one process: `recorder` is the application's, `exporter` is run beside it."""

    exporter: Exporter
    recorder: Recorder
    usage: TokenUsage

    def join(self, tally: Tally) -> None:
        """Export what is counted, and count what is dropped."""
        tally.include(self.exporter.collect)
        self.exporter.tell(partial(metrics_of, tally.durations, self.usage))


def export_to(
    collector: Collector, *, share: Decimal, clock: Clock, pace: Pace | None = None
) -> Export:
    """An export; nothing is sent before `exporting`.

    Args:
        share: 0 to 1, of the traces that begin here.
    """
    exporter, usage = Exporter(collector, clock=clock, pace=pace), TokenUsage()
    return Export(exporter=exporter, recorder=Recorder(exporter, usage, share=share), usage=usage)
