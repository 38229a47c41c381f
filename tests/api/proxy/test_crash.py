"""A real proxy process with a real journal, killed or stopped while it streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from billing.journal.reader import is_closed, list_instances, records_of, segments, try_adopt
from billing.journal.records import Checkpoint, Intent, Record, Usage
from billing.journal.recovery import recover
from tests.api.proxy.conftest import KEY, until
from tests.fake_engine.server import fake_engine
from tests.fake_engine.shapes import Behaviour

ROOT = Path(__file__).resolve().parents[3]
STREAMS = 50
TOKEN = re.compile(rb" w\d+ ")


@dataclass
class Visitor:
    """A client of one stream, and what it got."""

    id: bytes = b""
    received: list[bytes] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(TOKEN.findall(b"".join(self.received)))

    @property
    def done(self) -> bool:
        return b"[DONE]" in b"".join(self.received)

    async def visit(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
        )
        with contextlib.suppress(OSError):
            while part := await reader.read(65_536):
                self.received.append(part)
                if part.endswith(b"0\r\n\r\n"):
                    break
        shown = re.search(rb"x-steelyard-request-id: req_([0-9a-f]{32})", b"".join(self.received))
        self.id = bytes.fromhex(shown[1].decode()) if shown else b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def started(base_url: str, folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.api.proxy.crash_proxy",
        base_url,
        str(folder),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


def journaled(folder: Path) -> list[Record]:
    (instance,) = list_instances(folder)
    lock = try_adopt(instance)
    assert lock is not None
    try:
        return [record for segment in segments(instance) for record in records_of(segment.path)]
    finally:
        lock.release()


@pytest.mark.parametrize("seed", range(3))
async def test_kill_9_bills_between_the_last_checkpoint_and_what_was_delivered(tmp_path, seed):
    chance = random.Random(seed)
    async with fake_engine() as engine:
        process, port = await started(engine.base_url, tmp_path)
        visitors = [Visitor() for _ in range(STREAMS)]
        visits = []
        for number, visitor in enumerate(visitors):
            tokens = chance.randrange(1, 60)
            engine.behaviour = Behaviour(tokens=tokens, pace_ms=chance.choice([0, 5, 20]))
            visits.append(asyncio.create_task(visitor.visit(port)))
            await until(lambda so_far=number: len(engine.served) > so_far)
        await asyncio.sleep(chance.uniform(0.05, 0.8))
        process.kill()
        await process.wait()
        await asyncio.gather(*visits)
    records = journaled(tmp_path)
    written = {record.id: record for record in records if isinstance(record, Usage)}
    outcomes = [*written.values(), *recover(records)]
    assert max(Counter(outcome.id for outcome in outcomes).values()) == 1
    checkpoints: dict[bytes, int] = {}
    for record in records:
        if isinstance(record, Checkpoint):
            before = checkpoints.get(record.id, 0)
            checkpoints[record.id] = max(before, record.counts.output)
    by_id = {outcome.id: outcome for outcome in outcomes}
    intents = {record.id for record in records if isinstance(record, Intent)}
    for visitor in visitors:
        if visitor.done:
            usage = written[visitor.id]
            assert (usage.cause, usage.estimated) == ("completed", False)
            assert usage.counts.output == visitor.tokens
        elif visitor.received:
            assert visitor.id in intents
            outcome = by_id[visitor.id]
            billed = outcome.counts.output if isinstance(outcome, Usage) else 0
            assert checkpoints.get(visitor.id, 0) <= billed <= visitor.tokens
            if isinstance(outcome, Usage) and outcome.cause == "recovered":
                assert outcome.estimated
    assert set(by_id) == intents


async def test_sigterm_finishes_streams_and_closes_the_journal(tmp_path):
    async with fake_engine() as engine:
        process, port = await started(engine.base_url, tmp_path)
        engine.behaviour = Behaviour(tokens=20, pace_ms=20)
        visitors = [Visitor() for _ in range(10)]
        visits = [asyncio.create_task(visitor.visit(port)) for visitor in visitors]
        await until(lambda: len(engine.served) == len(visitors))
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*visits)
        assert await process.wait() == 0
    assert all(visitor.done for visitor in visitors)
    records = journaled(tmp_path)
    usages = [record for record in records if isinstance(record, Usage)]
    assert sorted(usage.id for usage in usages) == sorted(visitor.id for visitor in visitors)
    assert {usage.counts.output for usage in usages} == {20}
    assert recover(records) == []
    assert is_closed(list_instances(tmp_path)[0])
