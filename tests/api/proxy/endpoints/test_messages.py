"""Messages as Anthropic's clients send them."""

from __future__ import annotations

import json
from dataclasses import replace

import anthropic
import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.conftest import KEY
from tests.api.proxy.endpoints.asks import (
    ASKS,
    MESSAGE,
    MESSAGE_STREAM,
    MESSAGES,
    OF_MESSAGES,
    events,
    whole,
)
from tests.fake_engine.scripted import Script

WHOLE, STREAM = (ask for ask in ASKS if ask.route is Route.MESSAGES)
COUNTED = Counts(input=7, cached_input=4, cache_write=3, output=5)


@pytest.fixture
async def client(desk):
    base_url = f"http://127.0.0.1:{desk.port}"
    async with anthropic.AsyncAnthropic(base_url=base_url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("ask", [WHOLE, STREAM], ids=["whole", "stream"])
async def test_input_excludes_what_the_cache_read_and_wrote(desk, ask):
    answer = await desk.ask(ask)
    assert answer.content == ask.script.body
    await desk.settled()
    assert desk.journal.usage.counts == COUNTED
    assert desk.journal.usage.raw["input_tokens"] == 7


async def test_the_official_client_reads_answers_streams_and_counts(desk, client):
    desk.engine.script = WHOLE.script
    message = await client.messages.create(model="text", max_tokens=9, messages=MESSAGES)
    assert message.usage.input_tokens == 7
    desk.engine.script = MESSAGE_STREAM
    async with client.messages.stream(model="text", max_tokens=9, messages=MESSAGES) as stream:
        text = "".join([part async for part in stream.text_stream])
        assert (await stream.get_final_message()).stop_reason == "max_tokens"
    assert text == " 0 1 2 3 4"
    desk.engine.script = whole({"input_tokens": 14})
    counted = await client.messages.count_tokens(model="text", messages=MESSAGES)
    assert counted.input_tokens == 14
    await desk.settled()
    assert [usage.counts for usage in desk.journal.usages] == [COUNTED, COUNTED]
    sent = desk.engine.seen[0].headers
    assert len(sent["anthropic-version"]) == len("2023-06-01")
    assert sent["authorization"] == "Bearer backend-secret"
    assert "x-api-key" not in sent or sent["x-api-key"] == "backend-secret"


async def test_tools_of_the_client_pass_and_their_calls_are_billed(desk):
    tool = {"name": "f", "input_schema": {"type": "object"}}
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    answer = {**MESSAGE, "content": [call], "stop_reason": "tool_use", "usage": OF_MESSAGES}
    body = json.dumps({**json.loads(WHOLE.body), "tools": [tool]}).encode()
    got = await desk.ask(replace(WHOLE, script=whole(answer)), body)
    assert got.json()["content"] == [call]
    assert desk.engine.seen[0].body == body
    assert desk.journal.usage.counts == COUNTED


async def test_no_beta_reaches_the_backend(desk):
    await desk.ask(WHOLE, **{"anthropic-beta": "code-execution-2025-05-22, x"})
    assert "anthropic-beta" not in desk.engine.seen[0].headers


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (400, anthropic.BadRequestError),
    ],
)
async def test_refusals_have_the_shape_that_the_client_knows(desk, client, status, error):
    ask = {"model": "text", "max_tokens": 9, "messages": MESSAGES}
    if status == 401:
        client.api_key = KEY + "x"
    elif status == 403:
        ask["model"] = "no-price-text"
    elif status == 404:
        ask["model"] = "nobody-serves-this"
    else:
        ask["container"] = "c"
    with pytest.raises(error) as refused:
        await client.messages.create(**ask)
    assert refused.value.status_code == status
    told = refused.value.body
    assert told["type"] == "error"
    assert told["error"]["type"].endswith("_error")
    assert told["request_id"].startswith("req_")
    assert desk.engine.seen == []


async def test_an_unreachable_backend_is_told_in_the_same_shape(desk):
    desk.engine.script = Script(pieces=(), broken=True)
    answer = await desk.ask(replace(WHOLE, script=desk.engine.script))
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "api_error"


async def test_an_error_event_ends_the_stream_and_bills_what_was_delivered(desk):
    begun = MESSAGE_STREAM.pieces[:6]
    failed = events(("error", {"error": {"type": "overloaded_error", "message": "x"}})).pieces
    script = replace(MESSAGE_STREAM, pieces=(*begun, *failed))
    answer = await desk.ask(replace(STREAM, script=script))
    assert answer.content == script.body
    await desk.settled()
    usage = desk.journal.usage
    assert (usage.cause, usage.estimated) == ("upstream_broke", True)
    assert usage.counts.input + usage.counts.cached_input + usage.counts.cache_write == 14
    assert 1 <= usage.counts.output <= 4


async def test_counting_tokens_leaves_no_record_whatever_happens(desk):
    ask = next(ask for ask in ASKS if ask.route is Route.COUNT_TOKENS)
    for script in (
        ask.script,
        Script(pieces=(b'{"error":1}',), status=400),
        Script(pieces=(b"{",), broken=True),
        replace(MESSAGE_STREAM),
        Script(pieces=(b"",), status=503),
    ):
        await desk.ask(replace(ask, script=script))
    await desk.settled()
    assert len(desk.engine.seen) == 5
    assert desk.journal.records == []
    assert not desk.app.tally.events
