"""The official client, the proxy and an engine of others: three who must name the same tokens.

What the engine reported is read off the wire in front of it, what the client was told from the
client, and what is billed from the ledger, request by request.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from billing.metering.usage_event import Cause
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from billing.store.usage.read import EventView
from tests.engine.server import Engine
from tests.engine.tap import Reported, Tap, running_tap
from tests.system import System, running_system

pytestmark = pytest.mark.engine

# The same engine, named and unnamed: an operator who does not know what he runs is billed alike.
BACKENDS = """
backends:
  - name: named
    url: {url}
    engine: transformers
    models: [{{name: tiny, upstream: {model}}}]
  - name: unnamed
    url: {url}
    models: [{{name: tiny-unnamed, upstream: {model}}}]
"""
MODELS = ("tiny", "tiny-unnamed")
CHAT_TEMPLATE_TOKENS = len("user: \nassistant: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    system: System
    tap: Tap
    client: openai.OpenAI


@pytest.fixture
def plant(
    engine: Engine,
    database: Database,
    postgres: ServerAddress,
    database_name: str,
    tmp_path: Path,
) -> Iterator[Plant]:
    owner_url = postgres.owner_url(database_name)
    with running_tap(engine.base_url) as tap:
        backends = BACKENDS.format(url=tap.base_url, model=engine.model)
        with (
            running_system(database, tmp_path, backends, owner_url=owner_url) as system,
            openai.OpenAI(
                api_key=system.key, base_url=f"{system.proxy_url}/v1", max_retries=0
            ) as client,
        ):
            yield Plant(system=system, tap=tap, client=client)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the client knows of one answer.

    Attributes:
        told: usage that it was told; None where it did not ask.
    """

    engine_id: str
    request_id: str
    told: Reported | None


def chat(plant: Plant, model: str, content: str, tokens: int) -> Answer:
    raw = plant.client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": content}], max_tokens=tokens
    )
    answer = raw.parse()
    assert answer.usage is not None
    told = Reported(prompt=answer.usage.prompt_tokens, completion=answer.usage.completion_tokens)
    assert told == Reported(prompt=len(content.encode()) + CHAT_TEMPLATE_TOKENS, completion=tokens)
    return Answer(engine_id=answer.id, request_id=raw.headers["x-steelyard-request-id"], told=told)


def chat_stream(plant: Plant, model: str, content: str, tokens: int, *, asks: bool) -> Answer:
    raw = plant.client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True} if asks else openai.omit,
    )
    with raw.parse() as stream:
        chunks = list(stream)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    finishes = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert finishes[-1] == "length"
    # Unasked only where the meter did not ask either, as in a direct call.
    assert len(usages) in ([1] if asks else [0, 1])
    return Answer(
        engine_id=chunks[0].id,
        request_id=raw.headers["x-steelyard-request-id"],
        told=Reported(prompt=usages[0].prompt_tokens, completion=usages[0].completion_tokens)
        if asks
        else None,
    )


def complete(plant: Plant, model: str, content: str, tokens: int) -> Answer:
    raw = plant.client.completions.with_raw_response.create(
        model=model, prompt=content, max_tokens=tokens
    )
    answer = raw.parse()
    assert answer.usage is not None
    return Answer(
        engine_id=answer.id,
        request_id=raw.headers["x-steelyard-request-id"],
        told=Reported(prompt=answer.usage.prompt_tokens, completion=answer.usage.completion_tokens),
    )


def complete_stream(plant: Plant, model: str, content: str, tokens: int) -> Answer:
    raw = plant.client.completions.with_raw_response.create(
        model=model, prompt=content, max_tokens=tokens, stream=True
    )
    with raw.parse() as stream:
        chunks = list(stream)
    assert sum(chunk.usage is not None for chunk in chunks) <= 1
    return Answer(
        engine_id=chunks[0].id, request_id=raw.headers["x-steelyard-request-id"], told=None
    )


def test_tokens_in_the_ledger_are_those_the_engine_reported_and_the_client_was_told(plant):
    contents = ["hi", "grüße an alle", "x" * 400]
    answers: list[Answer] = []
    for model in MODELS:
        for content, tokens in zip(contents, [1, 9, 40], strict=True):
            answers += [
                chat(plant, model, content, tokens),
                chat_stream(plant, model, content, tokens, asks=True),
                chat_stream(plant, model, content, tokens, asks=False),
                complete(plant, model, content, tokens),
                complete_stream(plant, model, content, tokens),
            ]
    with ThreadPoolExecutor(8) as pool:
        answers += pool.map(
            lambda tokens: chat_stream(plant, "tiny", "at once", tokens, asks=tokens % 2 == 0),
            range(1, 17),
        )
    _assert_tied_out(plant, answers)


def test_client_that_leaves_a_real_stream_is_billed_what_it_got(plant):
    raw = plant.client.chat.completions.with_raw_response.create(
        model="tiny",
        messages=[{"role": "user", "content": "a long answer, please"}],
        max_tokens=900,
        stream=True,
    )
    received = 0
    with raw.parse() as stream:
        for chunk in stream:
            received += bool(chunk.choices[0].delta.content)
            if received == 20:
                break
    (event,) = plant.system.wait_for_events(1)
    assert _shown(event) == raw.headers["x-steelyard-request-id"]
    assert event.cause == Cause.CLIENT_LEFT
    assert event.estimated
    assert 20 <= event.quantities["tokens.output"] < 900
    # The engine has stopped: it answers the next request, and exactly.
    _assert_tied_out(plant, [chat(plant, "tiny", "next", 3)], before=[event])


def _shown(event: EventView) -> str:
    return f"req_{event.id.hex}"


def _assert_tied_out(
    plant: Plant, answers: list[Answer], *, before: list[EventView] | None = None
) -> None:
    """One exact event per answer, equal for engine, client and ledger; and no other events."""
    ignored = {event.id for event in before or ()}
    found = plant.system.wait_for_events(len(answers) + len(ignored))
    events = {_shown(event): event for event in found if event.id not in ignored}
    assert events.keys() == {answer.request_id for answer in answers}
    reported = plant.tap.reported()
    for answer in answers:
        event = events[answer.request_id]
        billed = Reported(
            prompt=int(event.quantities["tokens.input"]),
            completion=int(event.quantities["tokens.output"]),
        )
        assert billed == reported[answer.engine_id]
        assert answer.told in {None, billed}
        assert (event.cause, event.estimated) == (Cause.COMPLETED, False)
