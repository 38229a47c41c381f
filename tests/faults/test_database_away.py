"""The database dies under load: known keys go on, journals wait, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.store.database import Database
from billing.store.embedded.server import EmbeddedServer
from billing.store.migrate import migrate
from tests.faults.conftest import plant
from tests.faults.workloads import start_clients, streams
from tests.system import eventually


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder through which the server's own user can pass."""
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


async def test_L5_requests_go_on_while_the_database_is_dead_and_are_billed_once_it_is_back(
    folder: Path,
) -> None:
    chance = random.Random(3)
    server = EmbeddedServer(folder / "database")
    address = server.start()
    migrate(address.owner_url())
    database = Database(address.app_url())
    try:
        async with plant(database, address.owner_url(), folder, pace_ms=15) as running:
            system = running.system
            system.start_proxy()
            async with asyncio.TaskGroup() as group:
                early = start_clients(group, running, streams(chance), chance, over_ms=500)
                await asyncio.sleep(0.3)
                postmaster = folder / "database" / "cluster" / "postmaster.pid"
                os.kill(int(postmaster.read_text().split()[0]), signal.SIGKILL)
            # A new start admits nobody without the database; one that runs knows its keys.
            async with asyncio.TaskGroup() as group:
                late = start_clients(group, running, streams(chance), chance, over_ms=500)
            answers = [task.result() for task in [*early, *late]]
            assert all(told.ended for told in answers)
            server.stop()
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(
                eventually, system.events, lambda found: len(found) >= len(answers)
            )
            system.children.pop("proxy").stop()
            await asyncio.to_thread(system.wait_until_settled)
            assert running.judged(answers).completed == len(answers)
    finally:
        database.close()
        server.stop()
