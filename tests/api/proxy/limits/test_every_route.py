"""Every request counts once in the limits of its tenant, and what is only looked at in none."""

from __future__ import annotations

import pytest

from billing.admission.limit import Unit
from billing.admission.route import ROUTES, Serving
from tests.api.proxy.endpoints.asks import ASKS, Ask
from tests.api.proxy.limits.conftest import LimitedDesks, limit_of

LOOKED_AT = [
    spec.path for spec in ROUTES if spec.method == "GET" and spec.serving is not Serving.STORED
]
UNITS = (Unit.REQUESTS, Unit.TOKENS, Unit.SLOTS)


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.name)
async def test_a_request_of_any_route_counts_once(limited_desk: LimitedDesks, ask: Ask) -> None:
    desk = await limited_desk(*(limit_of(10**9, unit) for unit in UNITS))
    assert (await desk.ask(ask)).status_code == 200
    await desk.settled()
    counts = ask.counts
    tokens = counts.input + counts.cached_input + counts.cache_write + counts.output
    assert list(desk.holds.held.values()) == [(0, 1), (0, tokens), (0, 0)]


@pytest.mark.parametrize("path", LOOKED_AT)
async def test_what_is_looked_at_counts_in_no_limit(limited_desk: LimitedDesks, path: str) -> None:
    desk = await limited_desk(*(limit_of(2, unit) for unit in UNITS))
    for _ in range(5):
        assert (await desk.http.get(path.format(model="text"))).status_code == 200
    assert set(desk.holds.held.values()) == {(0, 0)}
