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
from tests.api.proxy.endpoints.asks import ASKS, MESSAGES, OF_CHAT, counted, events, whole
from tests.api.proxy.endpoints.asks import response as response_of
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


def chunk(choices: list[object], usage: object) -> bytes:
    kind = {"object": "chat.completion.chunk", "id": "c", "created": 1, "model": "text"}
    return f"data: {json.dumps({**kind, 'choices': choices, 'usage': usage})}\n\n".encode()


def called(arguments: str, *, begins: bool = False) -> list[object]:
    function = {"name": "weather", "arguments": ""} if begins else {"arguments": arguments}
    call = {"index": 0, "function": function}
    if begins:
        call |= {"id": "call_1", "type": "function"}
    return [{"index": 0, "delta": {"tool_calls": [call]}}]


TOOL_STREAM = Script(
    pieces=(
        chunk(called("", begins=True), counted(1)),
        *(chunk(called(part), counted(5)) for part in ('{"city":', '"Köln"}')),
        chunk([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], counted(5)),
        chunk([], OF_CHAT),
        b"data: [DONE]\n\n",
    ),
    chunked=True,
    content_type="text/event-stream",
)
LONG_STREAM = Script(
    pieces=tuple(
        chunk([{"index": 0, "delta": {"content": " w"}}], counted(n)) for n in range(1, 3_000)
    ),
    chunked=True,
    content_type="text/event-stream",
)


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

    message = {"role": "assistant", "content": '{"name": "Köln"}'}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    desk.engine.script = whole({"id": "c", "choices": [choice], "usage": OF_CHAT})
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
    part = {"type": "output_text", "text": "", "annotations": []}
    item = {"id": "m", "type": "message", "role": "assistant", "status": "in_progress"}
    place = {"item_id": "m", "output_index": 0}
    desk.engine.script = events(
        ("response.created", {"response": response_of("in_progress", None)}),
        ("response.output_item.added", {"output_index": 0, "item": {**item, "content": []}}),
        ("response.content_part.added", {**place, "content_index": 0, "part": part}),
        *(
            ("response.output_text.delta", {**place, "content_index": 0, "delta": f" {n}"})
            for n in range(5)
        ),
        (
            "response.output_item.done",
            {"output_index": 0, "item": {**item, "status": "completed", "content": [part]}},
        ),
        ("response.completed", {"response": response_of("completed")}),
    )
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
    desk.engine.script = whole(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
            "usage": {"prompt_tokens": 11, "total_tokens": 11},
        }
    )
    vectors = await openai_client.embeddings.create(
        model="embed", input="a", encoding_format="float"
    )
    assert vectors.data[0].embedding == [0.5]
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
