"""The official clients on every route, in front of the simulated engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import anthropic
import openai
import pytest
import uvicorn
from anthropic.types import MessageParam

from api.simulated.app import MODELS, SimulatedEngine
from billing.journal.records import Counts
from tests.api.proxy.conftest import KEY, until

SENTENCE = "one two three"
NAMES = {"sim-small": "text", "sim-embed": "embed", "sim-rank": "rank", "sim-hear": "hear",
         "sim-speak": "speak", "sim-paint": "paint"}  # fmt: skip


@pytest.fixture
async def simulated(desk) -> AsyncIterator[None]:
    """The desk with the simulated engine and its models."""
    config = uvicorn.Config(
        SimulatedEngine(), port=0, lifespan="off", ws="none", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    snapshot, terms = desk.control.snapshot, desk.control.snapshot.terms[7]
    models = {}
    for name, like in NAMES.items():
        model = snapshot.models[like]
        backend = replace(
            model.backends[0], base_url=f"http://127.0.0.1:{port}", engine="simulated"
        )
        models[name] = replace(model, name=name, backends=(backend,))
    priced = {name: model.classes for name, model in models.items()}
    units = {name: model.units for name, model in models.items()}
    desk.control.snapshot = replace(
        snapshot, models=models, terms={7: replace(terms, priced=priced, priced_units=units)}
    )
    yield
    server.should_exit = True
    await running


@pytest.fixture
async def client(desk, simulated) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"http://127.0.0.1:{desk.port}/v1"
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0) as made:
        yield made


async def test_responses(desk, client):
    ask = {"model": "sim-small", "input": SENTENCE, "max_output_tokens": 5}
    answer = await client.responses.create(**ask)
    assert len(answer.output_text.split()) == 5
    async with client.responses.stream(**ask) as stream:
        async for event in stream:
            assert event.type.startswith("response.")
        assert (await stream.get_final_response()).output_text == answer.output_text
    await desk.settled()
    expected = Counts(input=3, output=5)
    assert [usage.counts for usage in desk.journal.usages] == [expected, expected]


async def test_messages(desk, simulated):
    url = f"http://127.0.0.1:{desk.port}"
    messages: list[MessageParam] = [{"role": "user", "content": SENTENCE}]
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        whole = await client.messages.create(model="sim-small", max_tokens=4, messages=messages)
        async with client.messages.stream(
            model="sim-small", max_tokens=4, messages=messages
        ) as stream:
            streamed = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="sim-small", messages=messages)
    texts = [answer.content[0].model_dump()["text"] for answer in (streamed, whole)]
    assert texts[0] == texts[1]
    assert counted.input_tokens == 3
    await desk.settled()
    expected = Counts(input=3, output=4)
    assert [usage.counts for usage in desk.journal.usages] == [expected, expected]


async def test_sound_pictures_and_rankings(desk, client):
    heard = await client.audio.transcriptions.create(
        model="sim-hear", file=("a.wav", b"\0" * 40_000)
    )
    assert heard.text == "tick tick tick"
    await desk.http.post(
        "/v1/audio/translations", data={"model": "sim-hear"}, files={"file": ("a.wav", b"\0")}
    )
    sound = await client.audio.speech.create(model="sim-speak", input="hällo", voice="alloy")
    assert sound.content.startswith(b"RIFF")
    painted = await client.images.generate(model="sim-paint", prompt="p", n=3)
    assert len(painted.data) == 3
    ranked = await desk.http.post(
        "/v1/rerank", json={"model": "sim-rank", "query": "a b", "documents": ["x", "b a"]}
    )
    assert [row["index"] for row in ranked.json()["results"]] == [1, 0]
    assert [usage.units for usage in desk.journal.usages] == [
        {"audio.seconds": 3_000},
        {"audio.seconds": 1_000},
        {"speech.characters": 5},
        {"images": 3},
        {"rerank.searches": 1},
    ]


def test_every_simulated_model_is_tried_here():
    assert set(NAMES) | {"sim-large"} == set(MODELS)
