"""Cut streams whose whole usage the engine had told: it is billed if all of the answer has left."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.api.proxy.conftest import RawClient, until
from tests.api.proxy.endpoints.asks import chunk, counted
from tests.engines.golden import STREAMS
from tests.fake_engine.shapes import Behaviour

ERROR = b'data: {"error":{"message":"engine died"}}\n\n'
A_WORD = chunk([{"index": 0, "delta": {"content": "a"}}], counted(1))


@pytest.mark.parametrize("whole", [True, False])
async def test_an_error_behind_the_usage_takes_nothing_back(open_stage, whole):
    """All that was generated has been delivered, and only the end mark is an error."""
    stage = await open_stage()
    vector = next(one for one in STREAMS if one.name == "vllm-0.32-stream-not-asked")
    told = chunk([], counted(8)) if whole else b""
    wire = A_WORD + told + ERROR
    stage.play(replace(vector, wire=wire), upto=len(wire))
    client = await stage.ask(vector)
    await client.until(ERROR)
    client.leave()
    await until(lambda: stage.player.left)
    await stage.yard.settled()
    usage = stage.yard.journal.usage
    assert (usage.cause, usage.estimated) == ("upstream_broke", not whole)
    assert usage.counts.output == (8 if whole else 1)


async def test_what_waits_for_a_slow_client_is_delivered_before_the_error_is(yard):
    """It was billed what the kernel had taken at that instant, and then got all of it."""
    yard.engine.behaviour = Behaviour(tokens=4, filler=3_000_000, error_after=3)
    client = RawClient(*await asyncio.open_connection("127.0.0.1", yard.port, limit=1 << 12))
    yard.stack.push_async_callback(client.close)
    await client.post(b'{"model":"tiny","messages":[],"stream":true}')
    got = bytearray()
    while not got.endswith(b"\r\n0\r\n\r\n"):
        got += await client.reader.read(1 << 16)
        await asyncio.sleep(0.001)
    await yard.settled()
    assert got.count(b'"content":" w') == 3
    assert b"engine died" in got
    usage = yard.journal.usage
    assert (usage.cause, usage.counts.output) == ("upstream_broke", 3)
