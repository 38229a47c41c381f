"""What a stream has delivered is durable within 250 ms (D2), so that a crash costs no more."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from api.proxy.app import create_app
from api.proxy.server import serving
from billing.journal.instance import read_mark
from billing.journal.journal import Journal
from billing.journal.reader import list_instances, segments
from billing.journal.records import Checkpoint, Checkpoints, Intent, Usage, decode
from billing.journal.segment import HEADER_BYTES, frames
from tests.api.proxy.conftest import KEY, MemoryControl, snapshot_for
from tests.fake_engine.server import fake_engine
from tests.fake_engine.shapes import Behaviour

STREAMS = 5
AGE_MS = 250
LOOK_MS = 5


@dataclass(slots=True)
class Looks:
    """When the journal's durable mark was seen where; and how late this machine let us look.

    A loop or a thread that gets no turn looks late, and writes late by as much: that is the
    machine's, and is taken off.
    """

    folder: Path
    seen: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    late_ns: dict[str, int] = field(default_factory=lambda: {"loop": 0, "thread": 0})
    ended: threading.Event = field(default_factory=threading.Event)

    async def look(self) -> None:
        (instance,) = list_instances(self.folder)
        while not self.ended.is_set():
            began = time.monotonic_ns()
            mark = read_mark(instance)
            assert mark.segment == 1
            self.seen.append((began, mark.offset))
            await asyncio.sleep(LOOK_MS / 1000)
            self._note("loop", began)

    def doze(self) -> None:
        while not self.ended.is_set():
            began = time.monotonic_ns()
            time.sleep(LOOK_MS / 1000)
            self._note("thread", began)

    def _note(self, who: str, began: int) -> None:
        late = time.monotonic_ns() - began - LOOK_MS * 1_000_000
        self.late_ns[who] = max(self.late_ns[who], late)

    def durable_at(self, end: int) -> int:
        """When the record that ends there was first seen to be durable."""
        return next(at for at, offset in self.seen if offset >= end)


def written(folder: Path, looks: Looks) -> dict[bytes, list[int]]:
    """When each operation's records became durable, in the order of the journal."""
    (instance,) = list_instances(folder)
    (segment,) = segments(instance)
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for frame in frames(memoryview(segment.path.read_bytes()), HEADER_BYTES):
        if frame.end > looks.seen[-1][1]:
            break
        record = decode(frame.payload)
        match record:
            case Checkpoints(items=items):
                for item in items:
                    found[item.id].append(looks.durable_at(frame.end))
            case Intent() | Checkpoint() | Usage():
                found[record.id].append(looks.durable_at(frame.end))
            case _:
                pass
    return found


async def stream(http: httpx.AsyncClient) -> None:
    body = {"model": "tiny", "messages": [], "stream": True}
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_raw():
            pass


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a folder: how long a disk takes is not the proxy's doing."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="steelyard-tests-", dir=shared if shared.is_dir() else None
    ) as made:
        yield Path(made)


async def test_no_stream_is_ahead_of_its_journal_by_more_than_250_ms(folder: Path):
    looks = Looks(folder)
    async with fake_engine() as engine:
        engine.behaviour = Behaviour(tokens=150, pace_ms=10)
        journal = await Journal.open(folder)
        app = create_app(MemoryControl(snapshot_for(engine.base_url, "vllm")), journal)
        async with (
            serving(app) as port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"authorization": f"Bearer {KEY}"},
                timeout=30,
                trust_env=False,
            ) as http,
        ):
            dozing = threading.Thread(target=looks.doze)
            dozing.start()
            looking = asyncio.create_task(looks.look())
            await asyncio.gather(*(stream(http) for _ in range(STREAMS)))
            await asyncio.sleep(LOOK_MS * 4 / 1000)
            looks.ended.set()
            await looking
            dozing.join()
            durable = written(folder, looks)
    allowed_ns = AGE_MS * 1_000_000 + sum(looks.late_ns.values())
    assert len(durable) == STREAMS
    for instants in durable.values():
        # Intent, checkpoints all along, usage.
        assert len(instants) > 4
        assert max(b - a for a, b in pairwise(instants)) <= allowed_ns
