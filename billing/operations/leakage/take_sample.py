"""Record what an engine's counters show."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.engines.counters import EngineCounters
from billing.metering.leakage import EngineSample
from billing.store import leakage as store
from billing.store.catalog import ensure_backends


def take_sample(
    connection: sa.Connection, *, backend: str, counters: EngineCounters, now: datetime
) -> EngineSample | None:
    """Record the counters of a backend, in the ingest role, one caller at a time.

    Args:
        backend: its name, as the proxy writes it into its events.
        now: when they were read.

    Returns:
        None, and nothing recorded, if a later sample is known: a clock went back, and a counter
        that seems to fall would look like a restart.
    """
    backend_id = ensure_backends(connection, [backend])[backend]
    before = store.newest_sample(connection, backend_id=backend_id)
    if before is not None and before.at >= now:
        return None
    sample = EngineSample(
        at=now,
        engine_epoch=1,
        prompt=counters.prompt,
        generation=counters.generation,
        counts_cached=counters.counts_cached,
    ).succeeds(before)
    store.insert_sample(connection, sample, backend_id=backend_id)
    return sample
