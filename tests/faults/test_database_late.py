"""Processes that start before their database, and a worker whose database comes and goes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from billing.cli.processes import Child, free_port
from billing.store.database import Database, Role, query, run
from billing.store.embedded.address import ServerAddress
from tests.e2e.up import eventually
from tests.faults.silent_relay import SilentRelay, silent_relay

PROCESSES = {
    "workers.writer": "writer ships",
    "workers": "worker runs jobs",
    "api.proxy": "proxy listens",
    "api": "api listens",
}


@dataclass(slots=True)
class Late:
    """A database behind a port at which nobody answers yet.

    Attributes:
        answers: opens the port inside a block, and cuts every connection at its end.
    """

    environment: dict[str, str]
    answers: Callable[[], AbstractAsyncContextManager[SilentRelay]]
    folder: Path

    def start(self, module: str) -> tuple[Child, Path]:
        """A process, and its log."""
        path = self.folder / f"{module}.log"
        with path.open("wb") as log:
            child = Child(name=module, module=module, environment=self.environment, log=log)
            child.start()
        return child, path


@pytest.fixture
def late(database: Database, postgres: ServerAddress, tmp_path: Path) -> Late:
    port = free_port()
    url = database.engine.url.set(host="127.0.0.1", port=port, query={})

    backends = tmp_path / "backends.yaml"
    backends.write_text(
        'backends: [{name: none, url: "http://127.0.0.1:9", models: [{name: none}]}]'
    )
    return Late(
        environment={
            "STEELYARD_DATABASE_URL": url.render_as_string(hide_password=False),
            "STEELYARD_DATA_DIR": str(tmp_path / "data"),
            "STEELYARD_BACKENDS": str(backends),
            "STEELYARD_PROXY_PORT": str(free_port()),
            "STEELYARD_PROXY_METRICS_PORT": "0",
            "STEELYARD_API_PORT": str(free_port()),
        },
        answers=lambda: silent_relay(postgres.endpoint, port),
        folder=tmp_path,
    )


def says(path: Path, words: str, *, times: int = 1) -> None:
    eventually(path.read_text, lambda text: text.count(words) >= times)


@pytest.mark.parametrize("module", PROCESSES)
async def test_a_process_waits_for_its_database_and_says_so(late: Late, module: str) -> None:
    child, path = late.start(module)
    try:
        await asyncio.to_thread(says, path, "the database does not answer", times=2)
        assert child.exit_status is None
        async with late.answers():
            await asyncio.to_thread(says, path, PROCESSES[module])
            await asyncio.to_thread(child.stop)
        assert child.exit_status == 0
    finally:
        child.stop()


@pytest.mark.parametrize("module", ["workers.writer", "workers"])
async def test_one_that_waits_ends_when_it_is_told_to(late: Late, module: str) -> None:
    child, path = late.start(module)
    try:
        await asyncio.to_thread(says, path, "the database does not answer")
        assert child.pid is not None
        os.kill(child.pid, signal.SIGTERM)
        await asyncio.to_thread(eventually, lambda: child.exit_status, lambda status: status == 0)
    finally:
        child.stop()


async def test_a_worker_goes_on_after_its_database_was_away(late: Late, database: Database) -> None:
    child, path = late.start("workers")

    def workers() -> int:
        with database.transaction(Role.OPERATOR) as connection:
            return int(query(connection, "SELECT count(*) AS n FROM procrastinate_workers")[0].n)

    try:
        async with late.answers():
            await asyncio.to_thread(says, path, "worker runs jobs")
            await asyncio.to_thread(eventually, workers, bool)
        await asyncio.to_thread(says, path, "the database went away")
        with database.transaction(Role.OPERATOR) as connection:
            run(connection, "DELETE FROM procrastinate_workers")
        assert child.exit_status is None
        async with late.answers():
            await asyncio.to_thread(says, path, "worker runs jobs", times=2)
            await asyncio.to_thread(eventually, workers, bool)
            await asyncio.to_thread(child.stop)
        assert child.exit_status == 0
    finally:
        child.stop()
