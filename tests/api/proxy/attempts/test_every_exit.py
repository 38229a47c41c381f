"""A request ends at any of its waits: what it held is free, and it is recorded exactly once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from dataclasses import replace
from typing import Any

import pytest

from api.proxy.holds import Holds
from billing.admission.amounts import PICO
from billing.admission.limit import Unit
from billing.journal.records import Record, Usage, Void
from tests.api.proxy.attempts.conftest import Fleet
from tests.api.proxy.conftest import TENANT, MemoryJournal, until
from tests.api.proxy.limits.conftest import RATES, BookedHolds, limit_of, numbered
from tests.fake_engine.shapes import Behaviour


class Interruption:
    """Awaits a coroutine and raises an error at its n-th wait.

    Attributes:
        struck: it had so many waits.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], at: int, error: BaseException) -> None:
        self._coroutine = coroutine
        self._at = at
        self._error = error
        self.struck = False

    def __await__(self) -> Generator[Any, Any, None]:
        waits = 0
        while True:
            try:
                if waits == self._at + 1 and not self.struck:
                    self.struck = True
                    waited_for = self._coroutine.throw(self._error)
                else:
                    waited_for = self._coroutine.send(None)
            except StopIteration:
                return
            waits += 1
            if waits == self._at + 1:
                if waited_for is not None:  # a bare yield waits for nothing
                    waited_for._asyncio_future_blocking = False
                    waited_for.cancel()
                continue
            yield waited_for


class QueueingJournal(MemoryJournal):
    """Takes a record first and is waited for afterwards, as the one on the disk."""

    async def append(self, record: Record) -> None:
        self.records.append(record)
        await asyncio.sleep(0)


def limit_everything(fleet: Fleet) -> BookedHolds:
    """Limits of every unit, each wide; what is held and drawn of them."""
    units = (Unit.MONEY, Unit.TOKENS, Unit.REQUESTS, Unit.SLOTS)
    port, limits = BookedHolds(), numbered([limit_of(10**9 * PICO, unit) for unit in units])
    for limit in limits:
        port.lease(limit)
    fleet.yard.app._inference._holds = Holds(port, fleet.yard.app._clock)
    snapshot = fleet.yard.control.snapshot
    terms = snapshot.terms[TENANT]
    limited = replace(terms, limits=limits, rates=dict.fromkeys(snapshot.models, RATES))
    fleet.yard.control.snapshot = replace(snapshot, terms={TENANT: limited})
    return port


async def interrupted(fleet: Fleet, *, at: int, error: BaseException, stream: bool) -> bool:
    """Send one request and interrupt it; whether it had so many waits."""
    app = fleet.yard.app
    serve = type(app).serve
    struck: list[Interruption] = []
    ended = asyncio.Event()

    async def serving(request: Any, client: Any) -> None:
        interruption = Interruption(serve(app, request, client), at, error)
        struck.append(interruption)
        try:
            with contextlib.suppress(asyncio.CancelledError, ZeroDivisionError):
                await interruption
        finally:
            ended.set()

    app.serve = serving
    client = await fleet.yard.stream(model="pool", stream=stream)
    async with asyncio.timeout(10):
        await ended.wait()
    client.leave()
    return struck[0].struck


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("error", [asyncio.CancelledError, ZeroDivisionError])
async def test_every_exit_releases_and_records_once(open_fleet, stream, error):
    fleet = await open_fleet()
    journal = QueueingJournal()
    app, inference = fleet.yard.app, fleet.yard.app._inference
    app._journal = inference._journal = journal
    port = limit_everything(fleet)
    fleet.behave(Behaviour(status=429, answer=b"{}"), Behaviour(tokens=6, pace_ms=4, silent_ms=4))
    at, reached = 0, 0
    while await interrupted(fleet, at=at, error=error(), stream=stream):
        await until(lambda: not app.tally.in_flight)
        assert {held for held, _ in port.held.values()} == {0}, at
        assert not inference._live
        assert {state.in_flight for state in inference._pools.states()} <= {0}
        assert inference._plant is None or not inference._plant.upstream._busy
        outcomes = [one for one in journal.records if isinstance(one, Usage | Void)]
        assert len({one.id for one in outcomes}) == len(outcomes)
        assert {one.id for one in journal.intents} <= {one.id for one in outcomes}
        reached += bool(outcomes)
        fleet.engines[0].served.clear()
        fleet.engines[1].served.clear()
        journal.records.clear()
        at += 1
    assert at >= 4
    assert reached >= 2
