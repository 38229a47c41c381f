"""Which backend gets a request: load, weight, rest, and that counts come back to zero."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from api.proxy.pools import FAILURES_IN_A_ROW, FIRST_REST_US, LONGEST_REST_US, Pools, Seat
from billing.admission.backend import Backend, ServedModel
from tests.api.proxy.conftest import CHAT, until
from tests.fake_engine.shapes import Behaviour

NAMES = ("a", "b", "c")


def pool(*backends: Backend) -> ServedModel:
    return ServedModel(id=1, name="m", backends=backends, classes=CHAT)


def backend(name: str, **members: Any) -> Backend:
    return Backend(name=name, base_url=f"http://{name}", **members)


def fail(pools: Pools, of: Backend, now_us: int) -> None:
    seat = pools.begin(of)
    seat.failed(now_us)
    seat.leave()


def put_to_rest(pools: Pools, of: Backend, now_us: int = 0) -> None:
    for _ in range(FAILURES_IN_A_ROW):
        fail(pools, of, now_us)


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=4), requests=st.integers(1, 80))
def test_load_follows_the_weights(weights, requests):
    pools = Pools()
    members = [backend(str(number), weight=weight) for number, weight in enumerate(weights)]
    for _ in range(requests):
        chosen = pools.choose(pool(*members), without=(), now_us=0)
        assert chosen is not None
        pools.begin(chosen)
    load = {one.name: pools.in_flight(one.name) for one in members}
    assert sum(load.values()) == requests
    for one in members:
        for other in members:
            # Nobody has a request that would have weighed less on somebody else.
            assert load[one.name] * other.weight <= (load[other.name] + 1) * one.weight


def test_between_equals_they_take_turns():
    pools, members = Pools(), [backend(name) for name in NAMES]
    turns = Counter[str]()
    for _ in range(30):
        chosen = pools.choose(pool(*members), without=(), now_us=0)
        assert chosen is not None
        turns[chosen.name] += 1
        pools.begin(chosen).leave()
    assert turns == dict.fromkeys(NAMES, 10)


def test_a_backend_that_keeps_failing_rests_longer_each_time_and_one_request_tries_it():
    pools, (a, b) = Pools(), (backend("a"), backend("b"))
    both, now_us, rest_us = pool(a, b), 0, FIRST_REST_US
    put_to_rest(pools, a)
    for _ in range(9):
        assert pools.choose(both, without=(), now_us=now_us + rest_us - 1) is b
        now_us += rest_us
        seats = [pools.begin(b) for _ in range(2)]
        assert pools.choose(both, without=(), now_us=now_us) is a
        trying = pools.begin(a)
        assert pools.choose(both, without=(), now_us=now_us) is b
        trying.failed(now_us)
        trying.leave()
        for seat in seats:
            seat.leave()
        rest_us = min(2 * rest_us, LONGEST_REST_US)
    assert rest_us == LONGEST_REST_US
    now_us += rest_us
    pools.begin(b)
    trying = pools.begin(a)
    trying.answered()
    assert pools.choose(both, without=(), now_us=now_us) in {a, b}
    assert not pools.resting("a")


def test_a_try_that_nobody_waited_for_is_given_to_the_next_request():
    pools, (a, b) = Pools(), (backend("a"), backend("b"))
    put_to_rest(pools, a)
    pools.begin(b)
    trying = pools.begin(a)
    assert pools.choose(pool(a, b), without=(), now_us=FIRST_REST_US) is b
    trying.leave()
    assert pools.choose(pool(a, b), without=(), now_us=FIRST_REST_US) is a


def test_a_backend_that_asks_for_time_gets_it_up_to_a_minute():
    pools, (a, b) = Pools(), (backend("a"), backend("b"))
    pools.begin(a).failed(0, rest_us=7_000_000)
    assert pools.choose(pool(a, b), without=(), now_us=6_999_999) is b
    pools.begin(b).failed(7_000_000, rest_us=3_600_000_000)
    assert pools.choose(pool(a, b), without=(), now_us=7_000_000) is a
    assert pools.choose(pool(b), without=(), now_us=7_000_000) is b


def test_what_failed_before_the_rest_began_does_not_prolong_it():
    pools, (a, b) = Pools(), (backend("a"), backend("b"))
    seats = [pools.begin(a) for _ in range(50)]
    for seat in seats:
        seat.failed(0)
        seat.leave()
    assert pools.choose(pool(a, b), without=("b",), now_us=FIRST_REST_US) is a
    assert pools.choose(pool(a, b), without=(), now_us=FIRST_REST_US) is not None


def test_one_that_is_full_is_waited_for_and_one_that_drains_is_not():
    pools, (a, b) = Pools(), (backend("a", max_in_flight=1), backend("b"))
    put_to_rest(pools, b)
    seat = pools.begin(a)
    assert pools.choose(pool(a, b), without=(), now_us=0) is None
    seat.leave()
    assert pools.choose(pool(a, b), without=(), now_us=0) is a
    assert pools.choose(pool(backend("a", draining=True), b), without=(), now_us=0) is b
    assert pools.choose(pool(backend("a", draining=True)), without=(), now_us=0) is None


class PoolMachine(RuleBasedStateMachine):
    """Any order of requests, verdicts and time."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = Pools()
        self.members = [backend(name, weight=1 + at) for at, name in enumerate(NAMES)]
        self.seats: list[tuple[str, Seat]] = []
        self.now_us = 0

    @rule(without=st.sets(st.sampled_from(NAMES), max_size=2))
    def request(self, without):
        chosen = self.pools.choose(pool(*self.members), without=without, now_us=self.now_us)
        # Never empty: there is always one to try, however badly all of them do.
        assert chosen is not None
        assert chosen.name not in without
        if self.pools._members[chosen.name].rests(self.now_us):
            others = {one.name for one in self.members} - without - {chosen.name}
            assert all(self.pools.resting(name) for name in others)
        self.seats.append((chosen.name, self.pools.begin(chosen)))

    @rule(at=st.integers(0), verdict=st.sampled_from(["answered", "failed", "asked", None]))
    def end(self, at, verdict):
        if not self.seats:
            return
        _, seat = self.seats.pop(at % len(self.seats))
        if verdict == "answered":
            seat.answered()
        elif verdict is not None:
            seat.failed(self.now_us, rest_us=5_000_000 if verdict == "asked" else 0)
        seat.leave()
        seat.leave()

    @rule(passed_us=st.integers(1, 90_000_000))
    def wait(self, passed_us):
        self.now_us += passed_us

    @rule(name=st.sampled_from(NAMES))
    def wake(self, name):
        self.pools.wake(name, self.now_us)

    @invariant()
    def counts_are_those_of_the_seats(self):
        taken = Counter(name for name, _ in self.seats)
        assert {name: self.pools.in_flight(name) for name in NAMES} == {
            name: taken[name] for name in NAMES
        }


TestPools = PoolMachine.TestCase


async def test_in_flight_returns_to_zero_after_abort_storms(open_fleet):
    fleet = await open_fleet(3)
    fleet.behave(
        Behaviour(tokens=400, pace_ms=2),
        Behaviour(silent_ms=20_000),
        Behaviour(tokens=50, break_after=3, pace_ms=1),
    )

    async def visit(number: int) -> None:
        client = await fleet.yard.stream(model="pool")
        if number % 4 == 0:
            await asyncio.sleep(0.002 * (number % 17))
        elif number % 4 == 1:
            await asyncio.sleep(0.1)
        client.leave(polite=number % 2 == 0)

    async def ask() -> None:
        try:
            await fleet.chat(stream=True)
        except httpx.HTTPError:
            return

    asking = [asyncio.create_task(ask()) for _ in range(6)]
    await asyncio.gather(*(visit(number) for number in range(60)))
    for engine in fleet.engines:
        engine.drop_connections()
    await asyncio.gather(*asking)
    await until(lambda: fleet.yard.app.tally.in_flight == 0)
    states = list(fleet.yard.app._inference._pools.states())
    assert {state.backend: state.in_flight for state in states} == {"e0": 0, "e1": 0, "e2": 0}
    outcomes = [*fleet.journal.usages, *fleet.journal.voids]
    assert len({outcome.id for outcome in outcomes}) == len(outcomes)
    assert {intent.id for intent in fleet.journal.intents} == {outcome.id for outcome in outcomes}
