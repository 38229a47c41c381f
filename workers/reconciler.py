"""The worker's look at engines' own counters, and the hours that come of it.

How often is decided in `workers/tasks.py`. An engine that does not tell its counters is named once
in the log, and asked again with every turn: its hours are incomplete until it does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import httpx
import sqlalchemy as sa
import structlog

from billing.engines.counters import EngineCounters
from billing.errors import SteelyardError, UpstreamError
from billing.metering.leakage import Reconciled
from billing.operations.deployment import configured_backends
from billing.operations.leakage.read_engine import engine_client, read_engine, tells_counters
from billing.operations.leakage.reconcile_hour import (
    forget_samples,
    hours_to_work_out,
    reconcile_hour,
)
from billing.operations.leakage.take_sample import take_sample
from billing.planfiles.backend_file import BackendSpec
from billing.settings import Settings
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.leakage")

ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What a backend told, and when."""

    backend: str
    counters: EngineCounters
    at: datetime


class Reconciler:
    """Looks at the engines of a deployment; knows which of them it has warned about."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._silent: set[str] = set()
        self._misconfigured = False

    def sample(self) -> int:
        """Look at every engine's counters once; how many were recorded."""
        if not self._settings.engine_metrics:
            return 0
        backends = [each for each in self._backends() if tells_counters(each)]
        if not backends:
            return 0
        with engine_client() as client, ThreadPoolExecutor(max_workers=ASKED_AT_ONCE) as pool:
            found = pool.map(partial(self._read, client), backends)
            read = [each for each in found if each is not None]
        return self._database.retrying(
            Role.INGEST, lambda connection: sum(_record(connection, each) for each in read)
        )

    def reconcile(self, *, now: datetime) -> list[Reconciled]:
        """Work out the hours that may have changed, and forget old samples; what came out."""
        found: list[Reconciled] = []
        with self._database.transaction(Role.OPERATOR) as connection:
            hours = hours_to_work_out(connection, now=now)
        for hour in hours:
            # Again if another worker wrote the same hour at the same time.
            found += self._database.retrying(
                Role.OPERATOR, partial(reconcile_hour, hour=hour, now=now), snapshot=True
            )
        with self._database.transaction(Role.OPERATOR) as connection:
            forget_samples(connection, now=now)
        return found

    def _backends(self) -> tuple[BackendSpec, ...]:
        """Read with every turn: an engine may be added while the worker runs."""
        try:
            backends = configured_backends(self._settings)
        except SteelyardError as error:
            if not self._misconfigured:
                log.warning("the backends cannot be read", field=error.field, code=error.code)
            self._misconfigured = True
            return ()
        self._misconfigured = False
        return backends

    def _read(self, client: httpx.Client, backend: BackendSpec) -> _Read | None:
        try:
            counters = read_engine(client, backend)
        except UpstreamError as error:
            if backend.name not in self._silent:
                log.warning(
                    "an engine does not tell its counters: its leakage is not known",
                    backend=backend.name,
                    problem=error.message,
                )
            self._silent.add(backend.name)
            return None
        self._silent.discard(backend.name)
        return _Read(backend=backend.name, counters=counters, at=datetime.now(UTC))


def _record(connection: sa.Connection, read: _Read) -> bool:
    sample = take_sample(connection, backend=read.backend, counters=read.counters, now=read.at)
    return sample is not None
