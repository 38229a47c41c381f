"""SIGTERM in the middle of the traffic: who was answered is billed, who was cut has what it got.

Fifty streams and two hundred whole answers a second; the time that streams may go on is short, so
that some of them have to be cut.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from billing.journal.reader import is_closed, list_instances, segments
from billing.journal.records import (
    AnyRecord,
    Checkpoint,
    Checkpoints,
    Closed,
    Intent,
    Usage,
    Void,
    decode,
)
from billing.journal.segment import HEADER_BYTES, frames
from billing.metering.usage_event import Cause
from tests.faults.conftest import Plant
from tests.faults.fleet import ProxyFleet
from tests.faults.judgement import Verdicts, read_books
from tests.faults.stream_client import Ask, Told
from tests.faults.workloads import start_clients

STREAMS = 50
WHOLE_PER_SECOND = 200
SECONDS = 2
DRAIN_MS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What came of it.

    Attributes:
        journal: every record of the process, in the order of its bytes.
    """

    answers: list[Told]
    verdicts: Verdicts
    causes: list[Cause]
    journal: list[AnyRecord]
    closed: bool


def asks(chance: random.Random) -> list[Ask]:
    """Streams of 0.2 to 3 s, and whole answers that take 40 ms."""
    long = [
        Ask(model="engine-vllm", prompt=chance.randint(1, 40), tokens=chance.randint(40, 600))
        for _ in range(STREAMS)
    ]
    short = [
        Ask(model="engine-plain", prompt=3, tokens=chance.randint(1, 9), stream=False)
        for _ in range(WHOLE_PER_SECOND * SECONDS)
    ]
    return long + short


async def stopped_under_load(plant: Plant) -> Course:
    chance = random.Random(17)
    fleet = ProxyFleet(plant.system, 1, {"STEELYARD_PROXY_DRAIN_MS": str(DRAIN_MS)})
    await asyncio.to_thread(fleet.start)
    everything = asks(chance)
    async with asyncio.TaskGroup() as group:
        early = start_clients(group, fleet, everything[:STREAMS], chance, over_ms=200)
        late = start_clients(group, fleet, everything[STREAMS:], chance, over_ms=SECONDS * 1000)
        while len(plant.engine.served) < STREAMS * 3:  # noqa: ASYNC110  # the engine's own list
            await asyncio.sleep(0.005)
        await asyncio.to_thread(fleet.stop)
    await asyncio.to_thread(plant.system.wait_until_settled)
    answers = [task.result() for task in [*early, *late]]
    (folder,) = list_instances(plant.system.journal_dir)
    return Course(
        answers=answers,
        verdicts=plant.judged(answers),
        causes=[Cause(event.cause) for event in read_books(plant.system).events.values()],
        journal=[
            decode(frame.payload)
            for segment in segments(folder)
            for frame in frames(memoryview(segment.path.read_bytes()), HEADER_BYTES)
        ],
        closed=is_closed(folder),
    )


@pytest.fixture
async def course(open_plant) -> Course:
    async with open_plant(pace_ms=10) as plant:
        return await stopped_under_load(plant)


async def test_every_sent_answer_has_its_event(course):
    """`judged` has compared each of them with the ledger; what was cut is billed as delivered."""
    served = [told for told in course.answers if told.status == 200]
    assert len(served) < len(course.answers)  # it came in the middle: others were turned away
    assert {told.status for told in course.answers} <= {200, 503, None}
    ended = [told for told in served if told.ended]
    assert course.verdicts.completed == len(ended)
    assert {told.ask.stream for told in ended} == {True, False}
    cut = [told for told in served if not told.ended]
    assert cut
    assert set(course.causes) <= {Cause.COMPLETED, Cause.DRAINED}
    assert course.causes.count(Cause.DRAINED) == sum(told.delivered > 0 for told in cut)
    assert not course.verdicts.recovered


async def test_streams_end_before_the_journal_closes(course):
    *records, last = course.journal
    assert isinstance(last, Closed)
    assert course.closed
    begun = {record.id for record in records if isinstance(record, Intent)}
    outcomes = [record.id for record in records if isinstance(record, Usage | Void)]
    assert begun <= set(outcomes)  # nothing was left for the writer to recover
    assert len(outcomes) == len(set(outcomes))
    settled: set[bytes] = set()
    for record in records:
        if isinstance(record, Usage | Void):
            settled.add(record.id)
        elif isinstance(record, Checkpoint):
            assert record.id not in settled
        elif isinstance(record, Checkpoints):
            assert not settled & {checkpoint.id for checkpoint in record.items}
