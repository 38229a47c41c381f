"""The official client, unchanged, against the proxy in front of the simulated engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
import uvicorn

from api.proxy.app import create_app
from api.proxy.server import serving
from api.simulated.app import SimulatedEngine
from billing.admission.backend import Backend, ModelKind, ServedModel
from billing.admission.snapshot import Snapshot
from billing.admission.terms import TenantTerms
from billing.journal.records import Counts
from billing.metering.token_class import TokenClass
from tests.api.proxy.conftest import (
    CHAT,
    KEY,
    TENANT,
    MemoryControl,
    MemoryJournal,
    snapshot_for,
    until,
)

MESSAGES = [{"role": "user", "content": "how many words are these"}]


@pytest.fixture
async def simulated() -> AsyncIterator[str]:
    import asyncio

    config = uvicorn.Config(
        SimulatedEngine(), port=0, lifespan="off", ws="none", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    await running


@pytest.fixture
async def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
async def client(simulated, journal) -> AsyncIterator[openai.AsyncOpenAI]:
    backend = Backend(name="sim", base_url=simulated, engine="simulated")
    models = {
        name: ServedModel(id=number, name=name, backends=(backend,), classes=classes, kind=kind)
        for number, (name, classes, kind) in enumerate(
            [
                ("sim-small", CHAT, ModelKind.TEXT),
                ("sim-embed", frozenset({TokenClass.INPUT}), ModelKind.EMBEDDING),
            ]
        )
    }
    terms = TenantTerms(tenant_id=TENANT, price_version_id=1, priced=dict.fromkeys(models, CHAT))
    snapshot = Snapshot(
        version=1, keys=snapshot_for("http://x").keys, terms={TENANT: terms}, models=models
    )
    app = create_app(MemoryControl(snapshot), journal)
    async with serving(app) as port:
        made = openai.AsyncOpenAI(
            api_key=KEY, base_url=f"http://127.0.0.1:{port}/v1", max_retries=0, timeout=10
        )
        async with made:
            yield made


async def test_chat(client, journal):
    raw = await client.chat.completions.with_raw_response.create(
        model="sim-small", messages=MESSAGES, max_tokens=7, n=2
    )
    assert raw.headers["x-steelyard-simulated"] == "true"
    answer = raw.parse()
    assert len(answer.choices) == 2
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 14)
    assert journal.usage.counts == Counts(input=5, output=14)


async def test_chat_stream(client, journal):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="sim-small", messages=MESSAGES, max_tokens=9, stream=True
        )
    ]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert len(text.split()) == 9
    assert journal.usage.counts == Counts(input=5, output=9)


async def test_chat_stream_with_usage(client, journal):
    chunks = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="sim-small",
            messages=MESSAGES,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage.total_tokens == 14
    assert not journal.usage.estimated


async def test_cached_system_prompt_is_cheaper_the_second_time(client, journal):
    messages = [{"role": "system", "content": "word " * 40}, *MESSAGES]
    for _ in range(2):
        await client.chat.completions.create(model="sim-small", messages=messages, max_tokens=1)
    assert [usage.counts for usage in journal.usages] == [
        Counts(input=45, output=1),
        Counts(input=5, cached_input=40, output=1),
    ]


async def test_completions_and_embeddings(client, journal):
    completion = await client.completions.create(model="sim-small", prompt="a b", max_tokens=3)
    assert len(completion.choices[0].text.split()) == 3
    stream = await client.completions.create(model="sim-small", prompt="a b", stream=True)
    assert len([chunk async for chunk in stream]) == 16
    vectors = await client.embeddings.create(model="sim-embed", input=["a b c", "d"])
    assert [len(row.embedding) for row in vectors.data] == [8, 8]
    counts = [usage.counts for usage in journal.usages]
    assert counts == [Counts(input=2, output=3), Counts(input=2, output=16), Counts(input=4)]


async def test_models(client):
    assert [model.id async for model in client.models.list()] == ["sim-embed", "sim-small"]


async def test_errors_have_their_classes(client, journal):
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nope", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.chat.completions.create(
            model="sim-small", messages=MESSAGES, extra_body={"mine": 1}
        )
    assert (unknown.value.code, unknown.value.param) == ("unsupported_parameter", "mine")
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="sk-sy-wrong").models.list()
    assert journal.records == []
