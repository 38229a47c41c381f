"""A client that asks exactly as the proxy would ask gets what a direct call gets."""

from __future__ import annotations

import httpx
import pytest

from tests.api.proxy.endpoints.asks import ASKS, Ask


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
async def test_bytes_equal_a_direct_call(desk, ask: Ask):
    desk.engine.script = ask.script
    headers = {"content-type": ask.content_type.decode()}
    async with httpx.AsyncClient(base_url=desk.engine.base_url, trust_env=False) as direct:
        there = await direct.post(ask.route.value, content=ask.body, headers=headers)
    through = await desk.http.post(ask.route.value, content=ask.body, headers=headers)
    first, second = desk.engine.seen
    assert (second.method, second.path, second.body) == (first.method, first.path, first.body)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert through.status_code == there.status_code == 200
    assert through.content == there.content == ask.script.body
    ours = {"x-steelyard-request-id", "transfer-encoding", "content-length", "connection"}
    assert set(there.headers) - ours == set(through.headers) - ours
    assert through.headers["content-type"] == there.headers["content-type"]
    assert through.headers["x-steelyard-request-id"].startswith("req_")
