"""The database dies under load: known keys go on, journals wait, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from api.proxy.app import create_app
from api.proxy.control.snapshots import Control, utc_now
from api.proxy.server import serving
from billing.journal.journal import Journal
from billing.operations.deployment import configured_backends
from billing.operations.tenancy.keys import IssuedKey, issue_key, revoke_key
from billing.settings import Settings
from billing.store.database import Database, Role
from billing.store.embedded.server import EmbeddedServer
from billing.store.migrate import migrate
from billing.tenancy.api_key import Role as KeyRole
from tests.faults.conftest import Plant, plant
from tests.faults.stream_client import Ask, Told
from tests.faults.workloads import FULL, start_clients, streams
from tests.journal.samples import FullDisk
from tests.system import System, eventually

AWAY_SECONDS = 60 if FULL else 6
GROWTH_BYTES = 30 << 20

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)] if FULL else []


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder through which the server's own user can pass."""
    home = Path(tempfile.mkdtemp(prefix="steelyard-tests-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


@dataclass(slots=True)
class Mortal:
    """A plant on a database server that can be killed and started again."""

    plant: Plant
    server: EmbeddedServer
    postmaster: Path

    def kill_server(self) -> None:
        os.kill(int(self.postmaster.read_text().split()[0]), signal.SIGKILL)

    def restart_server(self) -> None:
        self.server.stop()
        self.server.start()

    def issued(self, name: str) -> IssuedKey:
        with self.plant.system.database.transaction(Role.OPERATOR) as connection:
            return issue_key(
                connection, role=KeyRole.INFERENCE, tenant="acme", name=name, now=utc_now()
            )

    def revoke(self, key: IssuedKey) -> None:
        with self.plant.system.database.transaction(Role.OPERATOR) as connection:
            revoke_key(connection, key.id, tenant_id=None, now=utc_now())

    async def status(self, key: str) -> int:
        """What the proxy says of a key; a wait of seconds is a failure."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            answer = await client.get(
                f"{self.plant.system.proxy_url}/v1/models",
                headers={"authorization": f"Bearer {key}"},
            )
            return answer.status_code

    def resident(self, name: str) -> int:
        """Bytes of memory that a process has."""
        pid = self.plant.system.children[name].pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def load(self, chance: random.Random, *, over_ms: int, rounds: int = 1) -> list[Told]:
        """Fifty streams a round, spread over a time."""
        asks = [ask for _ in range(rounds) for ask in streams(chance)]
        async with asyncio.TaskGroup() as group:
            running = start_clients(group, self.plant, asks, chance, over_ms=over_ms)
        return [task.result() for task in running]

    async def settle(self, answers: list[Told]) -> int:
        """End in order and hold every answer against the ledger: how many completed."""
        system = self.plant.system
        await asyncio.to_thread(eventually, system.events, lambda found: len(found) >= len(answers))
        system.children.pop("proxy").stop()
        await asyncio.to_thread(system.wait_until_settled)
        return self.plant.judged(answers).completed


@asynccontextmanager
async def mortal(folder: Path) -> AsyncIterator[Mortal]:
    server = EmbeddedServer(folder / "database")
    address = server.start()
    migrate(address.owner_url())
    database = Database(address.app_url())
    try:
        async with plant(database, address.owner_url(), folder, pace_ms=15) as running:
            yield Mortal(running, server, folder / "database" / "cluster" / "postmaster.pid")
    finally:
        database.close()
        server.stop()


async def test_L5_requests_go_on_while_the_database_is_dead_and_are_billed_once_it_is_back(
    folder: Path,
) -> None:
    chance = random.Random(3)
    async with mortal(folder) as running:
        running.plant.system.start_proxy()
        async with asyncio.TaskGroup() as group:
            early = group.create_task(running.load(chance, over_ms=500))
            await asyncio.sleep(0.3)
            running.kill_server()
        # A new start admits nobody without the database; one that runs knows its keys.
        answers = [*early.result(), *await running.load(chance, over_ms=500)]
        assert all(told.ended for told in answers)
        await asyncio.to_thread(running.restart_server)
        assert await running.settle(answers) == len(answers)


async def test_L5_sixty_seconds_without_the_database(folder: Path, record_property) -> None:
    """Under load all the time; memory is bounded, keys are what they were, and then as they are."""
    chance = random.Random(4)
    async with mortal(folder) as running:
        running.plant.system.start_proxy()
        key = running.issued("revoked later")
        assert await running.status(key.text) == 200
        answers = await running.load(chance, over_ms=1_000)
        before = {name: running.resident(name) for name in ("proxy", "writer")}
        running.kill_server()
        async with asyncio.TaskGroup() as group:
            away = group.create_task(
                running.load(chance, over_ms=AWAY_SECONDS * 1000, rounds=AWAY_SECONDS // 2)
            )
            for _ in range(AWAY_SECONDS // 2):
                await asyncio.sleep(2)
                assert await running.status(key.text) == 200
                assert await running.status(f"{key.text}x") == 401
        answers += away.result()
        assert all(told.ended for told in answers)
        growth = {name: running.resident(name) - was for name, was in before.items()}
        record_property("growth_bytes", str(growth))
        assert max(growth.values()) < GROWTH_BYTES
        await asyncio.to_thread(running.restart_server)
        await asyncio.to_thread(running.revoke, key)
        revoked_at = time.monotonic_ns()
        async with asyncio.timeout(20):
            while await running.status(key.text) != 401:  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.05)
        record_property("revoked_after_ms", (time.monotonic_ns() - revoked_at) // 1_000_000)
        assert await running.settle(answers) == len(answers)


@asynccontextmanager
async def proxy_on(disk: FullDisk, system: System) -> AsyncIterator[None]:
    """The system's proxy, in this process, with a journal on a disk that can be full."""
    backends = configured_backends(Settings(backends=system.environment["STEELYARD_BACKENDS"]))
    control = await Control.start(
        system.database, system.database.conninfo(), backends, now=utc_now
    )
    journal = await Journal.open(system.journal_dir, disk=disk)
    try:
        async with serving(create_app(control, journal), port=system.proxy_port):
            yield
    finally:
        await control.stop()


async def test_L5_a_full_disk_while_the_database_is_away_loses_nothing(folder: Path) -> None:
    """It admits nothing while neither can be reached, and goes on once there is space again."""
    disk = FullDisk()
    ask = Ask(model="engine-plain", prompt=3, tokens=5, stream=False)
    async with mortal(folder) as running:
        system = running.plant.system
        answers: list[Told] = []
        async with proxy_on(disk, system):

            async def asked(times: int) -> list[int | None]:
                told = [await running.plant.client(ask).run() for _ in range(times)]
                answers.extend(told)
                return [each.status for each in told]

            assert await asked(3) == [200] * 3
            await asyncio.to_thread(system.wait_for_events, 3)  # a writer starts with a database
            running.kill_server()
            assert await asked(3) == [200] * 3
            disk.full = True
            assert await asked(5) == [503] * 5
            # One found it out, and one a second is let through to try the disk.
            tried = len(running.plant.engine.served) - 6
            assert 1 <= tried < 5
            disk.full = False
            await asyncio.sleep(1.1)  # until the next one is
            assert await asked(3) == [200] * 3
            await asyncio.to_thread(running.restart_server)
            await asyncio.to_thread(eventually, system.events, lambda found: len(found) == 9)
        await asyncio.to_thread(system.wait_until_settled)
        verdicts = running.plant.judged(answers)
        assert (verdicts.completed, verdicts.unbilled) == (9, tried)
