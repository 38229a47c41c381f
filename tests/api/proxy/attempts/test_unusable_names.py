"""Backends under names that no resolver takes: they are away like others, and nobody else is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from api.proxy.health import HealthChecks
from api.proxy.limits import Limits
from api.proxy.pools import Pools
from api.proxy.upstream import Upstream, now_us
from billing.admission.backend import Backend
from billing.errors import UpstreamUnavailable
from tests.api.proxy.conftest import MemoryControl, YardBuilder, snapshot_for, until

UNUSABLE = ["http://a..b", f"http://{'x' * 64}.example"]


@pytest.mark.parametrize("url", UNUSABLE)
async def test_a_name_that_cannot_be_looked_up_is_a_backend_that_cannot_be_reached(
    url: str,
) -> None:
    upstream = Upstream(Limits())
    with pytest.raises(UpstreamUnavailable):
        await upstream.ask(Backend(name="b", base_url=url, engine="vllm"), "/health")
    upstream.close()


async def test_it_does_not_end_the_checks_of_the_others(
    open_yard: YardBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.proxy.health.CHECK_SECONDS", 0.02)
    yard = await open_yard()
    snapshot = snapshot_for(yard.engine.base_url)
    good = replace(snapshot.models["tiny"].backends[0], health_path="/health")
    bad = replace(good, name="bad", base_url=UNUSABLE[0])
    tiny = replace(snapshot.models["tiny"], backends=(bad, good))
    pools, upstream = Pools(), Upstream(Limits())
    checks = HealthChecks(upstream, pools, MemoryControl(replace(snapshot, models={"tiny": tiny})))
    try:
        pools.begin(bad).failed(now_us(), rest_us=60_000_000)
        await asyncio.sleep(0.1)  # the bad one was asked some times
        pools.begin(good).failed(now_us(), rest_us=60_000_000)
        await until(lambda: not pools._member("b1").rests(now_us()))
    finally:
        checks.close()
        upstream.close()
