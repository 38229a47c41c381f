"""A data plane in front of an engine that writes down what it counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from tests.faults.judgement import Verdicts, judge, read_books
from tests.faults.paced_engine import BACKENDS, PacedEngine, paced_engine
from tests.faults.stream_client import Ask, Client, Told
from tests.system import System, running_system


@dataclass(slots=True)
class Plant:
    """Engine in this process; writer, and a proxy once a test starts it, in their own."""

    engine: PacedEngine
    system: System

    def client(self, ask: Ask, *, receive_buffer: int | None = None) -> Client:
        return Client(self.system.proxy_port, self.system.key, ask, receive_buffer=receive_buffer)

    def judged(self, answers: list[Told]) -> Verdicts:
        """Hold everything that happened so far against the ledger."""
        return judge(self.engine, answers, read_books(self.system))


OpenPlant = Callable[..., AbstractAsyncContextManager[Plant]]


@asynccontextmanager
async def plant(
    database: Database, owner_url: str, folder: Path, *, pace_ms: int, padding: int = 0
) -> AsyncIterator[Plant]:
    async with paced_engine(pace_ms=pace_ms, padding=padding) as engine:
        backends = BACKENDS.format(url=engine.url)
        with running_system(database, folder, backends, owner_url=owner_url, proxy=False) as system:
            yield Plant(engine, system)


@pytest.fixture
def open_plant(
    database: Database, postgres: ServerAddress, database_name: str, tmp_path: Path
) -> OpenPlant:
    """Opens a plant on the test's own database."""

    def opened(*, pace_ms: int, padding: int = 0) -> AbstractAsyncContextManager[Plant]:
        owner_url = postgres.owner_url(database_name)
        return plant(database, owner_url, tmp_path, pace_ms=pace_ms, padding=padding)

    return opened
