"""OpenAI's own client, unchanged: what it sends is taken, and what it gets it understands."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.api.proxy.conftest import until
from tests.api.proxy.endpoints.asks import ASKS, MESSAGES
from tests.api.proxy.sdk.answers import EMBEDDED, LONG_STREAM, RESPONSE_STREAM, TOOL_STREAM, chat
from tests.fake_engine.scripted import Script

SCRIPTS = {ask.route: ask.script for ask in ASKS if not ask.script.chunked}
COUNTED = Counts(input=7, cached_input=4, output=5)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def test_tools_in_a_stream(desk, openai_client):
    desk.engine.script = TOOL_STREAM
    async with openai_client.chat.completions.stream(
        model="text", messages=MESSAGES, tools=[TOOL], stream_options={"include_usage": True}
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    assert final.usage.total_tokens == 16
    assert json.loads(desk.engine.seen[0].body)["tools"][0]["function"] == TOOL["function"]
    assert desk.journal.usage.counts == COUNTED


async def test_structured_output(desk, openai_client):
    class City(BaseModel):
        name: str

    desk.engine.script = chat('{"name": "Köln"}')
    answer = await openai_client.chat.completions.parse(
        model="text", messages=MESSAGES, response_format=City
    )
    assert answer.choices[0].message.parsed == City(name="Köln")
    sent = json.loads(desk.engine.seen[0].body)["response_format"]["json_schema"]
    assert (sent["name"], sent["strict"]) == ("City", True)


async def test_responses_whole_and_streamed(desk, openai_client):
    desk.engine.script = SCRIPTS[Route.RESPONSES]
    answer = await openai_client.responses.create(model="text", input="hi", store=False)
    assert (answer.status, answer.usage.input_tokens) == ("completed", 11)
    desk.engine.script = RESPONSE_STREAM
    async with openai_client.responses.stream(model="text", input="hi", store=False) as stream:
        seen = [event async for event in stream]
    said = [event.delta for event in seen if event.type == "response.output_text.delta"]
    assert said == [" 0", " 1", " 2", " 3", " 4"]
    assert [usage.counts for usage in desk.journal.usages] == [
        Counts(input=7, cached_input=4, output=5, reasoning=2)
    ] * 2


async def test_headers_are_there(desk, openai_client):
    desk.engine.script = SCRIPTS[Route.CHAT_COMPLETIONS]
    raw = await openai_client.chat.completions.with_raw_response.create(
        model="text", messages=MESSAGES, extra_headers={"x-steelyard-run-id": "run-1"}
    )
    usage = desk.journal.usage
    assert raw.headers["x-steelyard-request-id"] == f"req_{usage.id.hex()}"
    assert usage.attribution.run_id == "run-1"


async def test_the_clients_own_retries_bill_once(desk, openai_client):
    desk.engine.script = SCRIPTS[Route.CHAT_COMPLETIONS]
    desk.app._inference.draining = True
    asking = asyncio.create_task(
        openai_client.with_options(max_retries=3).chat.completions.create(
            model="text", messages=MESSAGES
        )
    )
    await until(lambda: desk.app.tally.answers["/v1/chat/completions", 503])
    desk.app._inference.draining = False
    assert (await asking).usage.total_tokens == 16
    assert desk.journal.usage.counts == COUNTED


async def test_a_stream_that_is_left_is_billed_what_it_got(desk, openai_client):
    desk.engine.script = LONG_STREAM
    got = 0
    async with await openai_client.chat.completions.create(
        model="text", messages=MESSAGES, stream=True
    ) as stream:
        async for _ in stream:
            got += 1
            if got == 20:
                break
    await until(lambda: desk.journal.usages)
    usage = desk.journal.usage
    assert usage.cause == "client_left"
    assert 20 <= usage.counts.output < 2_999


async def test_the_clients_timeout_bills_nothing_before_the_first_byte(desk, openai_client):
    desk.engine.script = Script(pieces=(b" ",) * 5_000, chunked=True)  # seconds
    with pytest.raises(openai.APITimeoutError):
        await openai_client.with_options(timeout=0.2).chat.completions.create(
            model="text", messages=MESSAGES
        )
    await until(lambda: desk.journal.voids)
    assert desk.journal.usages == []


async def test_embeddings_sound_and_pictures(desk, openai_client):
    desk.engine.script = EMBEDDED
    vectors = await openai_client.embeddings.create(
        model="embed", input="a", encoding_format="float"
    )
    assert vectors.data[0].embedding == [0.5, -2]
    desk.engine.script = SCRIPTS[Route.TRANSCRIPTIONS]
    heard = await openai_client.audio.transcriptions.create(
        model="hear", file=("a.wav", b"RIFF" * 99)
    )
    assert heard.text == "ah"
    desk.engine.script = SCRIPTS[Route.SPEECH]
    spoken = await openai_client.audio.speech.create(
        model="speak", input="grüß \U0001f600", voice="alloy"
    )
    assert spoken.content == SCRIPTS[Route.SPEECH].body
    desk.engine.script = SCRIPTS[Route.IMAGES]
    painted = await openai_client.images.generate(model="paint", prompt="p", n=2)
    assert len(painted.data) == 2
    assert [(usage.counts.input, usage.units) for usage in desk.journal.usages] == [
        (11, {}),
        (0, {"audio.seconds": 3_000}),
        (0, {"speech.characters": 6}),
        (0, {"images": 2}),
    ]


async def test_an_engines_refusal_has_its_class(desk, openai_client):
    error = {"message": "too long", "type": "invalid_request_error", "param": None, "code": None}
    desk.engine.script = Script(pieces=(json.dumps({"error": error}).encode(),), status=400)
    with pytest.raises(openai.BadRequestError, match="too long"):
        await openai_client.chat.completions.create(model="text", messages=MESSAGES)
    assert desk.journal.usages == []
