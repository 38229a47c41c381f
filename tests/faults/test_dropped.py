"""No refusal of the disk drops usage: the process says that it is not ready, and goes on counting.

`steelyard_proxy_dropped_total` counts what was delivered and given up; nothing may ever raise it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from api.proxy.app import Proxy, create_app
from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.errors import JournalError
from billing.journal.disk import Disk
from billing.journal.journal import Journal
from billing.journal.reader import list_instances, try_adopt
from billing.journal.records import Intent, Usage, Void
from billing.journal.recovery import recover
from tests.api.proxy.conftest import KEY, MemoryControl, snapshot_for, until
from tests.fake_engine.server import FakeEngine, fake_engine
from tests.fake_engine.shapes import Behaviour
from tests.journal.samples import DyingDisk, FullDisk, all_records

TOKEN = re.compile(rb" w\d+ ")


@dataclass(slots=True)
class Yard:
    """A proxy over a real journal on a disk that can refuse."""

    engine: FakeEngine
    app: Proxy
    journal: Journal
    http: httpx.AsyncClient

    async def ask(self, *, stream: bool) -> tuple[int, bytes]:
        """Status and what came of the answer, whole or cut."""
        body = json.dumps({"model": "tiny", "messages": [], "stream": stream}).encode()
        received = bytearray()
        async with self.http.stream("POST", "/v1/chat/completions", content=body) as answer:
            try:
                async for piece in answer.aiter_raw():
                    received += piece
            except httpx.RemoteProtocolError:
                pass  # cut
        return answer.status_code, bytes(received)

    def figure(self, name: str) -> str:
        text = self.app.tally.render().decode()
        return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} "))

    async def ready(self) -> bool:
        return (await self.http.get("/readyz")).status_code == 200


@asynccontextmanager
async def yard_on(disk: Disk, folder: Path) -> AsyncIterator[Yard]:
    async with fake_engine() as engine:
        journal = await Journal.open(folder, disk=disk)
        app = create_app(
            MemoryControl(snapshot_for(engine.base_url)), journal, limits=Limits(drain_ms=500)
        )
        async with (
            serving(app) as port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                trust_env=False,
            ) as http,
        ):
            yield Yard(engine, app, journal, http)


async def interrupted(yard: Yard, disk: DyingDisk | FullDisk) -> tuple[int, int]:
    """Break the disk in the middle of a stream, and ask for a whole answer meanwhile: tokens
    that the stream delivered, and the status of the other."""
    yard.engine.behaviour = Behaviour(tokens=40, pace_ms=25)
    stream = asyncio.create_task(yard.ask(stream=True))
    await until(lambda: yard.app.tally.checkpoints)
    await until(lambda: not yard.journal.statistics().backlog_records)  # it is durable
    if isinstance(disk, DyingDisk):
        disk.dying = True
    else:
        disk.full = True
    await until(lambda: yard.journal.failure)  # a checkpoint was refused
    assert not await yard.ready()
    status, content = await yard.ask(stream=False)
    assert b"choices" not in content
    _, content = await stream
    assert b"[DONE]" not in content
    return len(TOKEN.findall(content)), status


async def test_a_journal_that_cannot_write_is_unready(tmp_path):
    """Then what the stream delivered is recovered from its intent and its checkpoints."""
    disk, delivered = DyingDisk(), 0
    # It ends without a trailer, so that the writer adopts its journal.
    with pytest.raises(JournalError, match="disk"):  # noqa: PT012  # the end of the block raises
        async with yard_on(disk, tmp_path) as yard:
            delivered, status = await interrupted(yard, disk)
            assert status == 503
            assert not await yard.ready()
            assert yard.figure("steelyard_proxy_dropped_total") == "0.0"
            assert yard.figure("steelyard_proxy_journal_refusals_total") != "0.0"
    (folder,) = list_instances(tmp_path)
    lock = try_adopt(folder)
    assert lock is not None
    with lock:
        records = all_records(folder)
    (intent,) = (record for record in records if isinstance(record, Intent))
    assert not any(isinstance(record, Usage | Void) for record in records)
    (recovered,) = recover(records)
    assert isinstance(recovered, Usage)
    assert recovered.id == intent.id
    assert 0 < recovered.counts.output <= delivered


async def test_dropped_total_stays_zero_whatever_the_disk_does(tmp_path):
    """When there is space again everything that was refused is written, and it admits again."""
    disk = FullDisk()
    async with yard_on(disk, tmp_path) as yard:
        delivered, status = await interrupted(yard, disk)
        assert (delivered, status) == (40, 503)
        disk.full = False
        await asyncio.sleep(1.1)  # while it refuses, one request a second is let through to try
        yard.engine.behaviour = Behaviour(tokens=3)
        assert (await yard.ask(stream=False))[0] == 200
        assert await yard.ready()
        assert yard.figure("steelyard_proxy_dropped_total") == "0.0"
    records = all_records(yard.journal.directory)
    usages = [record for record in records if isinstance(record, Usage)]
    assert sorted(usage.counts.output for usage in usages) == [3, 40]
    assert [record.reason for record in records if isinstance(record, Void)] in (
        [],  # it was not admitted any more
        ["journal_refused"],
    )
    assert recover(records) == []
