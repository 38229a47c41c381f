"""Limits as the official clients show them, and their own retries around limits and faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import openai
import pytest

from billing.admission.amounts import PICO
from billing.admission.limit import Unit, Window
from tests.api.proxy.conftest import KEY, Yard, until
from tests.api.proxy.limits.conftest import LimitedYards, limit_of, limited
from tests.fake_engine.shapes import Behaviour

__all__ = ["limited"]

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
MONEY = limit_of(PICO // 2, Unit.MONEY, Window.DAY)
SHOWN = {
    "name": "budget",
    "unit": "money",
    "currency": "USD",
    "window": "day",
    "limit": "0.50",
    "used": "0.00",
}
ERROR = {"error": {"message": "engine died", "type": "server_error", "code": None}}
ROUTES = ("/v1/chat/completions", "/v1/messages")
DIED = Behaviour(status=500, answer=json.dumps(ERROR).encode())


def openai_of(yard: Yard, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key=KEY, base_url=f"http://127.0.0.1:{yard.port}/v1", max_retries=retries, timeout=20
    )


def anthropic_of(yard: Yard, retries: int = 0) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        api_key=KEY, base_url=f"http://127.0.0.1:{yard.port}", max_retries=retries, timeout=20
    )


def told(error: openai.APIError | anthropic.APIStatusError) -> Any:
    """The body of a refusal, as the client's own exception carries it."""
    return error.body


def require_shown(limit: dict[str, str]) -> None:
    """What a client reads of the limit: its figures, and an instant at which it begins anew."""
    resets_at = datetime.fromisoformat(limit["resets_at"])
    # The lease of these yards outlives its window by an hour.
    assert timedelta(0) < resets_at - datetime.now(UTC) <= timedelta(days=1, hours=1)
    assert {**limit, "resets_at": ""} == {**SHOWN, "resets_at": ""}


async def test_a_budget_that_is_spent_is_402_with_its_figures(limited: LimitedYards) -> None:
    yard = (await limited(MONEY)).yard
    async with openai_of(yard, retries=2) as client:
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=10**6)
    assert (refused.value.status_code, refused.value.code) == (402, "insufficient_quota")
    require_shown(told(refused.value)["limit"])
    async with anthropic_of(yard, retries=2) as client:
        with pytest.raises(anthropic.APIStatusError) as denied:
            await client.messages.create(model="tiny", messages=MESSAGES, max_tokens=10**6)
    body = told(denied.value)
    assert (denied.value.status_code, denied.value.type) == (402, "billing_error")
    require_shown(body["error"]["limit"])
    assert body["request_id"] == denied.value.response.headers["x-steelyard-request-id"]
    # Neither client has asked again, since waiting does not help.
    assert [yard.app.tally.answers[path, 402] for path in ROUTES] == [1, 1]
    assert yard.engine.served == []


async def test_a_rate_is_429_with_what_is_left_of_it(limited: LimitedYards) -> None:
    yard = (await limited(limit_of(1, Unit.REQUESTS, Window.MINUTE))).yard
    async with openai_of(yard) as client:
        await client.chat.completions.create(model="tiny", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    async with anthropic_of(yard) as client:
        with pytest.raises(anthropic.RateLimitError) as denied:
            await client.messages.create(model="tiny", messages=MESSAGES, max_tokens=9)
    assert denied.value.type == "rate_limit_error"
    assert told(denied.value)["error"]["limit"]["limit"] == "1"
    assert told(denied.value)["request_id"].startswith("req_")
    assert len(yard.journal.usages) == 1


@pytest.fixture
async def one_at_a_time(limited: LimitedYards) -> AsyncIterator[Yard]:
    """A yard with one place, which a slow stream has taken until the test leaves it."""
    yard = (await limited(limit_of(1, Unit.SLOTS))).yard
    yard.engine.behaviour = Behaviour(tokens=5_000, pace_ms=10)
    holder = await yard.stream(max_tokens=5_000)
    await holder.until(b"data: {")
    yard.engine.behaviour = Behaviour()

    async def leave_after_a_refusal() -> None:
        await until(lambda: any(status == 429 for _, status in yard.app.tally.answers))
        holder.leave()

    leaving = asyncio.create_task(leave_after_a_refusal())
    yield yard
    await leaving


async def test_the_clients_wait_for_a_place_and_are_billed_once(one_at_a_time: Yard) -> None:
    yard = one_at_a_time
    async with openai_of(yard, retries=3) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="tiny", messages=MESSAGES
        )
    assert raw.retries_taken >= 1
    (answered,) = [usage for usage in yard.journal.usages if usage.cause == "completed"]
    assert raw.headers["x-steelyard-request-id"] == f"req_{answered.id.hex()}"
    usage = raw.parse().usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (
        answered.counts.input + answered.counts.cached_input,
        answered.counts.output,
    )


async def test_an_engines_fault_is_asked_again_and_billed_once(yard: Yard) -> None:
    yard.engine.decide = lambda _: DIED if len(yard.engine.served) == 1 else Behaviour()
    async with openai_of(yard, retries=2) as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert answer.usage is not None
    assert len(yard.engine.served) == 2
    assert [void.reason for void in yard.journal.voids] == ["upstream_refused"]
    assert yard.journal.usage.counts.output == answer.usage.completion_tokens


async def test_a_fault_that_stays_is_the_clients_and_costs_nothing(yard: Yard) -> None:
    yard.engine.behaviour = DIED
    async with openai_of(yard, retries=1) as client:
        with pytest.raises(openai.InternalServerError, match="engine died"):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    async with anthropic_of(yard, retries=1) as client:
        with pytest.raises(anthropic.InternalServerError, match="engine died"):
            await client.messages.create(model="tiny", messages=MESSAGES, max_tokens=9)
    assert len(yard.engine.served) == len(yard.journal.voids) == 4
    assert yard.journal.usages == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_task_that_is_cancelled_stops_the_engine(yard: Yard, *, stream: bool) -> None:
    """A client library in a task: to cancel it is to leave, and the engine must not go on."""
    yard.engine.behaviour = Behaviour(tokens=2_000, pace_ms=10, silent_ms=0 if stream else 20_000)

    async def ask() -> None:
        async with openai_of(yard, retries=2) as client:
            answer: Any = await client.chat.completions.create(
                model="tiny", messages=MESSAGES, max_tokens=2_000, stream=stream
            )
            if stream:
                async for _ in answer:
                    pass

    asking = asyncio.create_task(ask())
    await until(lambda: yard.engine.served and (not stream or yard.engine.served[0].tokens > 20))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await yard.settled()
    await until(yard.engine.served[0].left.is_set)
    assert len(yard.engine.served) == 1
    if stream:
        assert yard.journal.usage.cause == "client_left"
        assert 0 < yard.journal.usage.counts.output < 2_000
    else:
        assert yard.journal.usages == []
        assert len(yard.journal.voids) == 1
