"""Nothing delivered, nothing billed: what it cost is scrap, and recorded as such."""

from __future__ import annotations

import pytest

from billing.journal.records import Void
from tests.api.proxy.conftest import until
from tests.engines.golden import STREAMS

ONE_OF_EACH = list({(vector.engine.engine, vector.route): vector for vector in STREAMS}.values())


@pytest.mark.parametrize("cause", ["client_left", "upstream_broke"])
@pytest.mark.parametrize("vector", ONE_OF_EACH, ids=lambda vector: vector.name)
async def test_nothing_delivered_is_void(stage, vector, cause):
    stage.play(vector, upto=10, breaks=cause == "upstream_broke")
    client = await stage.ask(vector)
    await until(lambda: stage.player.bodies)
    if cause == "client_left":
        client.leave()
    else:
        answer = await client.until(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 502")
    await stage.yard.settled()
    assert stage.yard.journal.usages == []
    (void,) = stage.yard.journal.voids
    assert isinstance(void, Void)
    assert void.reason == cause
