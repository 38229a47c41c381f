"""Limits around real requests: what is refused, what is drawn, and that all of it is given back."""

from __future__ import annotations

import asyncio

import pytest

from billing.admission.amounts import PICO
from billing.admission.limit import Unit, Window
from billing.admission.terms import AdmissionPolicy, HoldSize, OnLoss, Payment
from billing.journal.records import of_limit
from tests.api.proxy.conftest import until
from tests.api.proxy.limits.conftest import LimitedYards, limit_of, numbered
from tests.fake_engine.shapes import Behaviour

ALL_UNITS = (Unit.MONEY, Unit.TOKENS, Unit.REQUESTS, Unit.SLOTS)


async def test_a_hundred_at_once_reach_the_engine_only_as_far_as_the_limit(
    limited: LimitedYards,
) -> None:
    world = await limited(limit_of(7))
    answers = await asyncio.gather(*(world.yard.chat() for _ in range(100)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200] * 7 + [429] * 93
    assert len(world.yard.engine.served) == 7
    assert world.holds.held == {"budget": (0, 7)}
    assert len(world.yard.journal.records) == 7


async def test_what_is_drawn_is_what_was_used_and_is_on_the_record(limited: LimitedYards) -> None:
    world = await limited(*(limit_of(10**9 * PICO, unit) for unit in ALL_UNITS))
    assert (await world.yard.chat(max_tokens=5)).status_code == 200
    usage = world.yard.journal.usage
    tokens = usage.counts.input + usage.counts.cached_input + usage.counts.output
    drawn = {draw.lease: draw.units for draw in usage.draws}
    assert drawn == {101: tokens * 10**6, 102: tokens, 103: 1}
    await world.yard.settled()
    assert list(world.holds.held.values()) == [(0, tokens * 10**6), (0, tokens), (0, 1), (0, 0)]


async def test_a_stream_checkpoints_and_draws_like_a_whole_answer(limited: LimitedYards) -> None:
    world = await limited(limit_of(10**6, Unit.TOKENS))
    client = await world.yard.stream(max_tokens=9)
    await client.until(b"[DONE]")
    await world.yard.settled()
    usage = world.yard.journal.usage
    tokens = usage.counts.input + usage.counts.cached_input + usage.counts.output
    assert [draw.units for draw in usage.draws] == [tokens]
    assert world.holds.held == {"budget": (0, tokens)}


@pytest.mark.parametrize("leaves", ["before a byte", "in the stream"])
async def test_a_client_that_leaves_gives_back_what_it_held(
    limited: LimitedYards, leaves: str
) -> None:
    world = await limited(*(limit_of(10**9 * PICO, unit) for unit in ALL_UNITS))
    world.yard.engine.behaviour = Behaviour(tokens=50, pace_ms=20, silent_ms=200)
    client = await world.yard.stream(max_tokens=50)
    if leaves == "in the stream":
        await client.until(b"data:")
    else:
        await until(lambda: world.holds.held["budget"][0])
    client.leave()
    await world.yard.settled()
    assert all(held == 0 for held, _ in world.holds.held.values())


@pytest.mark.parametrize(
    "members", [{"model": "dead"}, {"model": "nobody"}, {"messages": 7, "steam": True}]
)
async def test_what_fails_draws_nothing_and_holds_nothing(
    limited: LimitedYards, members: dict[str, object]
) -> None:
    world = await limited(*(limit_of(10**9 * PICO, unit) for unit in ALL_UNITS))
    assert (await world.yard.chat(**members)).status_code >= 400
    await world.yard.settled()
    assert set(world.holds.held.values()) == {(0, 0)}


async def test_a_refusal_changes_no_other_limit(limited: LimitedYards) -> None:
    world = await limited(limit_of(100), limit_of(10, Unit.TOKENS), limit_of(3, Unit.SLOTS))
    refused = await world.yard.chat(max_tokens=5)
    assert refused.status_code == 402
    assert set(world.holds.held.values()) == {(0, 0)}
    assert world.yard.journal.records == []


async def test_refusals_say_what_is_reached(limited: LimitedYards) -> None:
    world = await limited(limit_of(PICO // 2, Unit.MONEY, Window.DAY))
    refused = await world.yard.chat(max_tokens=10**6)
    assert refused.status_code == 402
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["limit"].pop("resets_at").endswith(":00Z")
    assert error["limit"] == {
        "name": "budget", "unit": "money", "window": "day", "currency": "USD", "limit": "0.50",
        "used": "0.00",
    }  # fmt: skip
    assert refused.headers["x-steelyard-request-id"].startswith("req_")


async def test_rates_are_told_with_every_answer(limited: LimitedYards) -> None:
    world = await limited(limit_of(2, Unit.REQUESTS, Window.MINUTE))
    for left in ("1", "0"):
        answer = await world.yard.chat()
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == left
    refused = await world.yard.chat()
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["ratelimit-policy"] == '"budget";q=2;w=60'


@pytest.mark.parametrize(("hard", "shadow"), [(False, False), (True, True)])
async def test_soft_and_shadow_limits_tell_and_refuse_nothing(
    limited: LimitedYards, *, hard: bool, shadow: bool
) -> None:
    world = await limited(limit_of(1, hard=hard, shadow=shadow))
    answers = [await world.yard.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    told = [answer.headers.get("x-steelyard-limit") for answer in answers]
    assert told == [None, *["budget;shadow" if shadow else "budget;soft"] * 2]
    assert world.holds.held == {"budget": (0, 3)}


@pytest.mark.parametrize(("hard", "shadow"), [(False, False), (True, True)])
async def test_rates_that_refuse_nothing_do_not_pace_clients(
    limited: LimitedYards, *, hard: bool, shadow: bool
) -> None:
    enforced = limit_of(9, Unit.REQUESTS, Window.MINUTE)
    tried_out = limit_of(1, Unit.REQUESTS, Window.MINUTE, hard=hard, shadow=shadow)
    world = await limited(*numbered([enforced, tried_out]))
    answer = await world.yard.chat()
    assert answer.headers["x-ratelimit-limit-requests"] == "9"
    assert answer.headers["x-ratelimit-remaining-requests"] == "8"
    assert answer.headers.get_list("ratelimit-policy") == ['"budget";q=9;w=60']


async def test_an_answer_without_a_bound_of_the_client_gets_the_one_that_is_held(
    limited: LimitedYards,
) -> None:
    world = await limited(limit_of(10**6, Unit.TOKENS))
    await world.yard.chat()
    assert world.yard.engine.last.body["max_tokens"] == 4096
    await world.yard.chat(max_tokens=5)
    assert world.yard.engine.last.body["max_tokens"] == 5


@pytest.mark.parametrize(("capacity", "ends"), [(10**6, True), (1200, False)])
async def test_a_likely_hold_grows_with_its_answer_and_ends_it_at_the_limit(
    limited: LimitedYards, capacity: int, *, ends: bool
) -> None:
    likely = AdmissionPolicy(hold_size=HoldSize.LIKELY)
    world = await limited(limit_of(capacity, Unit.TOKENS), policy=likely)
    world.yard.engine.behaviour = Behaviour(tokens=1500, pace_ms=1, silent_ms=100)
    client = await world.yard.stream(max_tokens=2000)
    await until(lambda: world.holds.held["budget"][0])
    assert 512 + 256 <= world.holds.held["budget"][0] < 1200
    answer = await client.until(b"[DONE]" if ends else b"\r\n0\r\n\r\n")
    await world.yard.settled()
    assert (b'"code":"insufficient_quota"' in answer) == (not ends)
    assert (b"[DONE]" in answer) == ends
    assert world.yard.app.tally.limits_reached == ({} if ends else {("tokens", "hard"): 1})
    usage = world.yard.journal.usage
    assert usage.counts.output == 1500 if ends else 500 <= usage.counts.output <= 512
    (draw,) = usage.draws
    assert world.holds.held == {"budget": (0, draw.units)}
    assert draw.units <= capacity


@pytest.mark.parametrize(
    ("policy", "admitted"),
    [
        (AdmissionPolicy(), True),
        (AdmissionPolicy(max_exposure=10), False),
        (AdmissionPolicy(on_database_loss=OnLoss.CLOSED), False),
        (AdmissionPolicy(payment=Payment.PREPAID), False),
    ],
)
async def test_while_limits_cannot_be_asked_the_policy_decides(
    limited: LimitedYards, policy: AdmissionPolicy, *, admitted: bool
) -> None:
    world = await limited(limit_of(1), policy=policy)
    assert (await world.yard.chat()).status_code == 200
    world.holds.away = True
    answer = await world.yard.chat()
    assert answer.status_code == (200 if admitted else 503)
    if not admitted:
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_admitted_unasked_draws_on_the_limits_themselves(
    limited: LimitedYards, *, stream: bool
) -> None:
    """Whole: nothing is held that could end, so no estimate cuts it short."""
    likely = AdmissionPolicy(hold_size=HoldSize.LIKELY)
    units = (Unit.MONEY, Unit.TOKENS, Unit.REQUESTS, Unit.SLOTS)
    world = await limited(*(limit_of(0, unit) for unit in units), policy=likely)
    world.holds.away = True
    world.yard.engine.behaviour = Behaviour(tokens=900, pace_ms=1 if stream else 0)
    answer = await world.yard.chat(stream=stream)
    assert answer.status_code == 200
    assert "insufficient_quota" not in answer.text
    await world.yard.settled()
    usage = world.yard.journal.usage
    assert usage.counts.output == 900
    tokens = usage.counts.input + usage.counts.cached_input + usage.counts.output
    assert {draw.lease: draw.units for draw in usage.draws} == {
        of_limit(1): tokens * 10**6,
        of_limit(2): tokens,
        of_limit(3): 1,
    }


@pytest.mark.parametrize(("on_loss", "ends"), [(OnLoss.OPEN, True), (OnLoss.CLOSED, False)])
async def test_while_limits_cannot_be_asked_a_stream_grows_as_a_request_is_admitted(
    limited: LimitedYards, on_loss: OnLoss, *, ends: bool
) -> None:
    policy = AdmissionPolicy(hold_size=HoldSize.LIKELY, on_database_loss=on_loss)
    world = await limited(limit_of(1200, Unit.TOKENS), policy=policy)
    world.holds.away = True
    world.yard.engine.behaviour = Behaviour(tokens=1500, pace_ms=1)
    client = await world.yard.stream(max_tokens=2000)
    answer = await client.until(b"[DONE]" if ends else b"\r\n0\r\n\r\n")
    await world.yard.settled()
    assert (b"service_unavailable" in answer) == (not ends)
    usage = world.yard.journal.usage
    assert usage.counts.output == 1500 if ends else usage.counts.output <= 512
    # It has a lease: all of it counts there.
    (draw,) = usage.draws
    assert world.holds.held == {"budget": (0, draw.units)}
    assert (draw.units > 1200) == ends


async def test_exposure_ends(limited: LimitedYards) -> None:
    """While limits cannot be asked, no more is admitted than the operator exposes itself to."""
    each = 10**6 * (5 + 256 + len('[{"role": "user", "content": "hi"}]'))
    world = await limited(limit_of(0), policy=AdmissionPolicy(max_exposure=4 * each))
    world.holds.away = True
    answers = [await world.yard.chat(max_tokens=5) for _ in range(8)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == sorted(statuses)
    assert 3 <= statuses.count(200) <= 5
