"""The service tier that served goes on the event beside the one that was asked for."""

from __future__ import annotations

import json

import pytest

from tests.api.proxy.conftest import until
from tests.engines.golden import VECTORS
from tests.fake_engine.scripted import Script, scripted_engine
from tests.fake_engine.shapes import Behaviour

BY_NAME = {vector.name: vector for vector in VECTORS}


def answer(**members: object) -> Behaviour:
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    text = {"choices": [{"index": 0, "message": {"content": "x"}}], **members, "usage": usage}
    return Behaviour(answer=json.dumps(text).encode())


@pytest.mark.parametrize(
    ("asked", "named", "served"),
    [
        ({"service_tier": "priority"}, {"service_tier": "default"}, "default"),
        ({"service_tier": "flex"}, {"service_tier": "flex"}, "flex"),
        ({}, {"service_tier": "priority"}, "priority"),
        ({"service_tier": "flex"}, {"service_tier": None}, ""),
        ({"service_tier": "flex"}, {}, ""),
    ],
)
async def test_an_answer_says_which_tier_served(open_yard, asked, named, served):
    yard = await open_yard(engine="openai")
    yard.engine.behaviour = answer(**named)
    got = await yard.chat(**asked)
    assert got.content == yard.engine.last.sent
    usage = yard.journal.usage
    assert (usage.served_tier, usage.counts.input) == (served, 2)
    assert usage.attribution.service_tier == asked.get("service_tier", "")


async def test_an_engine_that_does_not_tell_is_not_asked(open_yard):
    yard = await open_yard(engine="vllm")
    yard.engine.behaviour = answer(service_tier="priority")
    await yard.chat(service_tier="flex")
    usage = yard.journal.usage
    assert (usage.served_tier, usage.attribution.service_tier) == ("", "flex")


@pytest.mark.parametrize("asked", [{}, {"service_tier": "flex"}])
async def test_an_unlisted_tier_is_counted_and_not_taken_for_another(open_yard, asked):
    yard = await open_yard(engine="generic")
    yard.engine.behaviour = answer(service_tier="turbo")
    assert (await yard.chat(**asked)).status_code == 200
    assert yard.journal.usage.served_tier == "unlisted"
    assert b'usage_anomalies_total{kind="tier_unlisted"} 1.0' in yard.app.tally.render()


@pytest.mark.parametrize("word", ["turbo", "batch", "x" * 200])
async def test_a_client_names_no_tier_by_having_its_word_repeated(open_yard, word):
    yard = await open_yard(engine="generic")
    yard.engine.behaviour = answer(service_tier=word)
    await yard.chat(service_tier=word)
    assert yard.journal.usage.served_tier == yard.journal.usage.attribution.service_tier == ""
    assert not yard.app.tally.anomalies["tier_unlisted"]


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("openai-2026-11-tier-in-stream", "default"),
        ("openai-2026-11-responses-tier-in-stream", "default"),
        ("anthropic-2023-06-01-tier-in-stream", "priority"),
        ("generic-1-tier-in-stream", "flex"),
        ("vllm-0.32-tier-in-stream", ""),
    ],
)
async def test_a_stream_says_it_by_its_end(stage, name, served):
    vector = BY_NAME[name]
    async with scripted_engine() as engine:
        stage.use(engine.base_url, vector)
        engine.script = Script(
            pieces=(vector.wire,), content_type="text/event-stream", chunked=True
        )
        body = vector.request.members.body
        answer = await stage.yard.http.post(vector.route.value, content=body)
        assert answer.content == vector.shown
        await stage.yard.settled()
    usage = stage.yard.journal.usage
    assert (usage.served_tier, usage.cause, usage.estimated) == (served, "completed", False)
    assert usage.attribution.service_tier == vector.request.service_tier


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("openai-2026-11-tier-in-stream", "default"),
        ("openai-2026-11-responses-tier-in-stream", ""),
        ("anthropic-2023-06-01-tier-in-stream", "priority"),
        ("generic-1-tier-in-stream", ""),
    ],
)
async def test_a_stream_that_is_cut_is_billed_by_what_it_had_said(stage, name, served):
    vector = BY_NAME[name]
    stage.play(vector, upto=vector.wire.index(b" words"))
    client = await stage.ask(vector)
    await client.until(b" short")
    client.leave()
    await until(lambda: stage.player.left)
    await stage.yard.settled()
    usage = stage.yard.journal.usage
    assert (usage.served_tier, usage.cause) == (served, "client_left")
    assert usage.attribution.service_tier == vector.request.service_tier
