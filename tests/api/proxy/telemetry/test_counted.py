"""What is counted of limits, leases, estimates and backends."""

from __future__ import annotations

import asyncio

import pytest

from billing.admission.limit import Unit
from billing.admission.terms import AdmissionPolicy
from tests.api.proxy.conftest import Yard, until
from tests.api.proxy.limits.conftest import LimitedYards, limit_of
from tests.fake_engine.shapes import Behaviour


def told(yard: Yard, name: str) -> dict[str, str]:
    """Value by label of one of the yard's metrics."""
    found = {}
    for line in yard.app.tally.render().decode().splitlines():
        series, _, value = line.rpartition(" ")
        metric, _, labels = series.partition("{")
        if metric == f"steelyard_proxy_{name}":
            found[labels.removesuffix("}")] = value
    return found


@pytest.mark.parametrize("unit", [Unit.REQUESTS, Unit.TOKENS, Unit.MONEY])
async def test_a_refusal_is_counted_by_unit(limited: LimitedYards, unit: Unit) -> None:
    world = await limited(limit_of(0, unit))
    for _ in range(2):
        assert (await world.yard.chat(max_tokens=5)).status_code in {402, 429}
    assert told(world.yard, "limits_reached_total") == {f'kind="hard",unit="{unit}"': "2.0"}


@pytest.mark.parametrize(
    ("hard", "shadow", "of_tenant", "kind"),
    [
        (False, False, False, "soft"),
        (True, True, False, "shadow"),
        (False, True, False, "shadow"),
        (True, False, True, "shadow"),
    ],
)
async def test_limits_that_only_tell_are_counted_apart(
    limited: LimitedYards,
    *,
    hard: bool,
    shadow: bool,
    of_tenant: bool,
    kind: str,
) -> None:
    policy = AdmissionPolicy(shadow=of_tenant)
    world = await limited(limit_of(1, hard=hard, shadow=shadow), policy=policy)
    answers = [await world.yard.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert answers[2].headers["x-steelyard-limit"] == f"budget;{kind}"
    assert told(world.yard, "limits_reached_total") == {f'kind="{kind}",unit="requests"': "2.0"}


async def test_estimates_are_counted_by_engine(yard: Yard) -> None:
    await yard.chat()
    assert set(told(yard, "estimates_total").values()) <= {"0.0"}
    yard.engine.behaviour = Behaviour(usage=False)
    await yard.chat()
    assert told(yard, "estimates_total") == {'engine="vllm"': "1.0"}


async def test_backends_tell_their_load_and_whether_they_rest(yard: Yard) -> None:
    yard.engine.behaviour = Behaviour(silent_ms=30_000)
    client = await yard.stream()
    await until(lambda: yard.engine.served)
    assert told(yard, "backend_in_flight") == {'backend="b1"': "1.0"}
    client.leave()
    await yard.settled()
    assert told(yard, "backend_in_flight") == {'backend="b1"': "0.0"}
    assert told(yard, "backend_resting") == {'backend="b1"': "0.0"}
    await asyncio.gather(*(yard.chat(model="dead") for _ in range(4)))
    assert told(yard, "backend_resting") == {'backend="b1"': "0.0", 'backend="b3"': "1.0"}
