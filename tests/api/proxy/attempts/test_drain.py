"""Backends that are to get nothing new."""

from __future__ import annotations

import asyncio

from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour


async def test_a_draining_backend_finishes_and_gets_nothing_new(fleet):
    fleet.behave(Behaviour(tokens=40, pace_ms=10), Behaviour())
    open_stream = asyncio.create_task(fleet.chat(stream=True))
    await until(lambda: fleet.served == [1, 0])
    fleet.reconfigure("e0", draining=True)
    for _ in range(5):
        assert (await fleet.chat()).status_code == 200
    assert fleet.served == [1, 5]
    assert b"[DONE]" in (await open_stream).content
    usages = {usage.attribution.backend: usage for usage in fleet.journal.usages}
    assert (usages["e0"].cause, usages["e0"].counts.output) == ("completed", 40)


async def test_a_backend_that_was_removed_finishes_too(fleet):
    fleet.behave(Behaviour(tokens=40, pace_ms=10), Behaviour())
    open_stream = asyncio.create_task(fleet.chat(stream=True))
    await until(lambda: fleet.served == [1, 0])
    backends = fleet.yard.control.snapshot.models["pool"].backends
    fleet.change("pool", backends=backends[1:])
    assert (await fleet.chat()).status_code == 200
    assert b"[DONE]" in (await open_stream).content


async def test_connections_outlive_a_change_of_weight(fleet):
    fleet.reconfigure("e1", draining=True)
    for weight in (1, 5, 2):
        fleet.reconfigure("e0", weight=weight)
        await fleet.chat()
    assert fleet.engines[0].connections == 1


async def test_when_all_drain_requests_are_turned_away_and_nothing_is_written(fleet):
    fleet.reconfigure("e0", draining=True)
    fleet.reconfigure("e1", draining=True)
    for stream in (True, False):
        assert (await fleet.chat(stream=stream)).status_code == 503
    assert fleet.journal.records == []
    assert fleet.served == [0, 0]
