"""Sick backends are left alone, asked, and taken back."""

from __future__ import annotations

from tests.api.proxy.attempts.conftest import Fleet
from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour

SICK = Behaviour(status=503, answer=b"{}")


async def make_sick(fleet: Fleet) -> None:
    """Let engine 0 fail until it gets nothing more."""
    fleet.behave(SICK, Behaviour())
    while not fleet.yard.app._inference._pools.resting("e0"):
        assert (await fleet.chat()).status_code == 200


async def test_a_sick_backend_is_left_alone(fleet):
    await make_sick(fleet)
    before = fleet.served[0]
    for _ in range(10):
        assert (await fleet.chat()).status_code == 200
    assert fleet.served[0] == before
    assert fleet.journal.usages[-1].attempts == ()


async def test_a_backend_that_says_that_it_works_is_tried_at_once(fleet, monkeypatch):
    monkeypatch.setattr("api.proxy.health.CHECK_SECONDS", 0.05)
    fleet.reconfigure("e0", health_path="/health")
    fleet.behave(Behaviour(status=503, answer=b"{}", headers=("retry-after: 50",)), Behaviour())
    await fleet.chat()
    await fleet.chat()
    fleet.engines[0].healthy = False
    await until(lambda: len(fleet.engines[0].asked) > 2)
    before = fleet.served[0]
    await fleet.chat()
    assert fleet.served[0] == before
    fleet.engines[0].healthy = True
    fleet.behave(Behaviour(), Behaviour())
    asked = len(fleet.engines[0].asked)
    await until(lambda: len(fleet.engines[0].asked) > asked)

    async def tried() -> bool:
        await fleet.chat()
        return fleet.served[0] > before

    while not await tried():
        pass
    assert not fleet.yard.app._inference._pools.resting("e0")
    assert set(fleet.engines[0].asked) == {"/health"}
    assert fleet.engines[1].asked == []


async def test_the_last_backend_is_never_given_up(fleet):
    fleet.behave(SICK, SICK)
    for _ in range(12):
        assert (await fleet.chat()).status_code == 503
    assert sum(fleet.served) >= 12
    fleet.behave(Behaviour(), Behaviour())
    assert (await fleet.chat()).status_code == 200


async def test_an_overloaded_backend_is_not_sick(fleet):
    fleet.behave(Behaviour(status=429, answer=b"{}"), Behaviour())
    for _ in range(8):
        await fleet.chat()
    assert not fleet.yard.app._inference._pools.resting("e0")
