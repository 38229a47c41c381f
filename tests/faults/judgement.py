"""Compares three witnesses of every request: engine, client and ledger.

What must hold whatever was killed when:

* an answer whose end reached the client has exactly one event, exact in the engine's counts;
* one that was cut has at most one, and last checkpoint ≤ billed ≤ delivered; it is flagged, unless
  everything but the end mark had been delivered;
* nothing is billed that the engine did not count;
* nothing else is in the ledger, and the rollups are what the events add up to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from billing.journal import reader
from billing.journal.records import Checkpoint, Record, Usage
from billing.metering.usage_event import Cause
from billing.operations.metering.verify_rollups import verify_rollups
from billing.store.database import Role, query
from billing.store.usage.read import EventView
from tests.faults.paced_engine import PacedEngine, Served
from tests.faults.stream_client import Told
from tests.system import System

CUT = {Cause.RECOVERED, Cause.CLIENT_LEFT, Cause.UPSTREAM_BROKE, Cause.DRAINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What was written down about all requests, by request id.

    Attributes:
        scrap: why attempts bill nothing.
        checkpoints: output tokens of the last checkpoint in the journal.
        recorded: ids of the usage that proxies had made durable themselves.
    """

    events: Mapping[str, EventView]
    scrap: Mapping[str, str]
    checkpoints: Mapping[str, int]
    recorded: frozenset[str]


def shown(event_id: UUID) -> str:
    return f"req_{event_id.hex}"


def read_books(system: System) -> Books:
    """Read ledger and journals; rows that are there twice fail here."""
    rows = system.events()
    by_id = Counter(shown(event.id) for event in rows)
    assert set(by_id.values()) <= {1}
    with system.database.transaction(Role.OPERATOR) as connection:
        scrap = query(connection, "SELECT id, reason FROM scrap_attempt")
        counted = query(connection, "SELECT count(*) AS rows FROM usage_event")[0].rows
        assert verify_rollups(connection) == []
    assert counted == len(rows)
    reasons = {shown(row.id): str(row.reason) for row in scrap}
    assert len(scrap) == len(reasons)
    assert not by_id.keys() & reasons.keys()
    checkpoints: dict[str, int] = {}
    recorded: set[str] = set()
    for record in _journaled(system.journal_dir):
        request_id = shown(UUID(bytes=record.id))
        if isinstance(record, Checkpoint):
            before = checkpoints.get(request_id, 0)
            checkpoints[request_id] = max(before, record.counts.output)
        elif isinstance(record, Usage):
            recorded.add(request_id)
    return Books(
        events={shown(event.id): event for event in rows},
        scrap=reasons,
        checkpoints=checkpoints,
        recorded=frozenset(recorded),
    )


def _journaled(directory: Path) -> Iterable[Record]:
    for instance in reader.list_instances(directory):
        for segment in reader.segments(instance):
            yield from reader.records_of(segment.path)


@dataclass(slots=True)
class Verdicts:
    """How many requests went which way: a test that saw no cut stream has shown nothing.

    Attributes:
        completed: their end reached the client.
        recovered: cut by the crash and billed by their last checkpoint.
        unfinished: exact, with everything delivered but the end mark.
        unbilled: cut before a checkpoint.
        ended_early: the client left, or the proxy was told to stop.
        leaked: tokens that engines had counted when a crash came, and that nobody is billed for.
    """

    completed: int = 0
    recovered: int = 0
    unfinished: int = 0
    unbilled: int = 0
    ended_early: int = 0
    leaked: int = 0


def judge(engine: PacedEngine, answers: Iterable[Told], books: Books) -> Verdicts:
    """Hold every request that the engine saw against client and ledger."""
    assert not engine.doubled
    assert not books.events.keys() - engine.served.keys()
    assert not books.scrap.keys() - engine.served.keys()
    told_by_id: dict[str, Told] = {}
    for told in answers:
        if told.request_id is not None and told.status == 200:
            assert told.request_id not in told_by_id
            told_by_id[told.request_id] = told
    assert not told_by_id.keys() - engine.served.keys()
    verdicts = Verdicts()
    for request_id, served in engine.served.items():
        case = Case(
            served=served,
            told=told_by_id.get(request_id),
            event=books.events.get(request_id),
            scrap=books.scrap.get(request_id),
            checkpoint=books.checkpoints.get(request_id, 0),
            recorded=request_id in books.recorded,
        )
        try:
            _judge_one(case, verdicts)
        except AssertionError as wrong:
            wrong.add_note(f"{request_id}: {case.summary()}")
            raise
    return verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Everything that is known of one request."""

    served: Served
    told: Told | None
    event: EventView | None
    scrap: str | None
    checkpoint: int
    recorded: bool

    def summary(self) -> str:
        told = self.told
        client = told and (told.ask, told.delivered, told.ended, told.left)
        return (
            f"engine {self.served}; client {client}; ledger {self.event}; scrap {self.scrap}; "
            f"checkpoint {self.checkpoint}; recorded {self.recorded}"
        )


def _judge_one(case: Case, verdicts: Verdicts) -> None:
    served, told, event = case.served, case.told, case.event
    unbilled = served.prompt + served.sent - (0 if event is None else _billed(event))
    assert unbilled >= 0
    if case.scrap in {None, "crash"} if event is None else event.cause == Cause.RECOVERED:
        verdicts.leaked += unbilled
    if told is not None and told.ended:
        assert event is not None
        assert event.cause == Cause.COMPLETED
        _assert_exact(event, served)
        assert told.delivered == served.planned
        assert told.usage in {None, (served.prompt, served.planned)}
        verdicts.completed += 1
    elif event is None:
        assert case.checkpoint == 0
        assert case.scrap is not None or told is None or not told.delivered
        verdicts.unbilled += 1
    elif not event.estimated:
        _assert_exact(event, served)
        assert case.recorded
        # An answer that is not a stream is durable before its body leaves: all or nothing.
        if told is not None and told.ask.stream and not told.left:
            assert told.delivered == served.planned
        verdicts.unfinished += 1
    else:
        assert told is not None
        _judge_cut(case, told, event, verdicts)


def _judge_cut(case: Case, told: Told, event: EventView, verdicts: Verdicts) -> None:
    assert event.cause in CUT
    billed = int(event.quantities.get("tokens.output", 0))
    # Of a client that left nobody knows what its kernel had taken when it closed.
    delivered = case.served.sent if told.left else told.delivered
    assert case.checkpoint <= billed <= delivered
    assert 0 <= int(event.quantities.get("tokens.input", 0)) <= case.served.prompt
    if event.cause == Cause.RECOVERED:
        assert not case.recorded
        verdicts.recovered += 1
    else:
        if event.cause == Cause.CLIENT_LEFT and told.ask.model == "engine-vllm":
            assert told.delivered <= billed
        verdicts.ended_early += 1


def _billed(event: EventView) -> int:
    classes = ("tokens.input", "tokens.cached_input", "tokens.cache_write", "tokens.output")
    return sum(int(event.quantities.get(meter, 0)) for meter in classes)


def _assert_exact(event: EventView, served: Served) -> None:
    assert not event.estimated
    assert int(event.quantities.get("tokens.output", 0)) == served.planned
    assert int(event.quantities.get("tokens.input", 0)) == served.prompt
