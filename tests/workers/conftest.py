"""A tenant whose batches a backend runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from billing.store.database import Database
from tests.fake_engine.batch_shapes import (
    BatchEngine,
    batch_engine,
)
from tests.workers.batch_bench import Bench
from tests.world import make_world


@pytest.fixture
def engine() -> Iterator[BatchEngine]:
    with batch_engine() as served:
        yield served


@pytest.fixture
def bench(database: Database, now: datetime, engine: BatchEngine, tmp_path: Path) -> Bench:
    world = make_world(database, now)
    return Bench(world=world, tenant=world.tenant(), engine=engine, folder=tmp_path)
