"""What leaves before the end of a stream: all else, so that nothing undelivered is billed."""

from __future__ import annotations

import pytest

from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
async def test_content_that_comes_with_the_end_leaves_before_the_event_is_durable(
    open_yard, engine
):
    yard = await open_yard(engine=engine)
    yard.engine.behaviour = Behaviour(shape=engine, silent_ms=200)
    client = await yard.stream()
    await until(lambda: yard.journal.intents)
    yard.journal.gate.clear()
    await client.until(b" w4 ")
    assert yard.journal.usages == []
    yard.journal.gate.set()
    assert (await client.until(b"\r\n0\r\n\r\n")).count(b'"length"') == 1
    assert yard.journal.usage.counts.output == 5
