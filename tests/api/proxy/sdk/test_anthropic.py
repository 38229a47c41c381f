"""Anthropic's own client, unchanged: streams with tools, its retries, a stream that it leaves."""

from __future__ import annotations

import asyncio
import json

import anthropic
import pytest

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.conftest import until
from tests.api.proxy.endpoints.asks import ASKS, MESSAGES
from tests.api.proxy.sdk.answers import MESSAGE_LONG_STREAM, MESSAGE_TOOL_STREAM
from tests.fake_engine.scripted import Script

WHOLE = next(ask.script for ask in ASKS if ask.route is Route.MESSAGES and not ask.script.chunked)
COUNTED = Counts(input=7, cached_input=4, cache_write=3, output=5)
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}


async def test_tools_in_a_stream(desk, anthropic_client):
    desk.engine.script = MESSAGE_TOOL_STREAM
    async with anthropic_client.messages.stream(
        model="text", max_tokens=9, messages=MESSAGES, tools=[TOOL]
    ) as stream:
        final = await stream.get_final_message()
    assert (final.stop_reason, final.content[0].input) == ("tool_use", {"city": "Köln"})
    assert json.loads(desk.engine.seen[0].body)["tools"] == [TOOL]
    assert desk.journal.usage.counts == COUNTED


async def test_the_clients_own_retries_bill_once(desk, anthropic_client):
    desk.engine.script = WHOLE
    desk.app._inference.draining = True
    asking = asyncio.create_task(
        anthropic_client.with_options(max_retries=3).messages.create(
            model="text", max_tokens=9, messages=MESSAGES
        )
    )
    await until(lambda: desk.app.tally.answers["/v1/messages", 503])
    desk.app._inference.draining = False
    assert (await asking).usage.output_tokens == 5
    assert desk.journal.usage.counts == COUNTED


async def test_a_stream_that_is_left_is_billed_what_it_got(desk, anthropic_client):
    desk.engine.script = MESSAGE_LONG_STREAM
    got = 0
    async with anthropic_client.messages.stream(
        model="text", max_tokens=9, messages=MESSAGES
    ) as stream:
        async for _ in stream.text_stream:
            got += 1
            if got == 20:
                break
    await until(lambda: desk.journal.usages)
    assert desk.journal.usage.cause == "client_left"
    assert 0 < desk.journal.usage.counts.output < 3_000


async def test_refusals_have_their_classes(desk, anthropic_client):
    with pytest.raises(anthropic.AuthenticationError):
        await anthropic_client.with_options(api_key="sk-sy-wrong").messages.create(
            model="text", max_tokens=9, messages=MESSAGES
        )
    with pytest.raises(anthropic.NotFoundError):
        await anthropic_client.messages.create(model="none", max_tokens=9, messages=MESSAGES)
    content = {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}}
    desk.engine.script = Script(pieces=(json.dumps(content).encode(),), status=400)
    with pytest.raises(anthropic.BadRequestError, match="too long"):
        await anthropic_client.messages.create(model="text", max_tokens=9, messages=MESSAGES)
    assert desk.journal.usages == []
