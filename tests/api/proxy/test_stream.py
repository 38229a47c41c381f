"""Streams that end in order."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from billing.journal.records import Counts
from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour, Events

ASKED = {"include_usage": True}
ASKED_ALL = {"include_usage": True, "continuous_usage_stats": True}

TEARS = [{}, {"cut": 1}, {"cut": 7}, {"crlf": True}, {"crlf": True, "cut": 3}]


def direct(behaviour: Behaviour, **members: object) -> bytes:
    """What the engine would have sent to this client without a proxy."""
    pieces = Events("/v1/chat/completions", members, behaviour).all()
    return b"".join(piece.text for piece in pieces)


@pytest.mark.parametrize("tear", TEARS)
@pytest.mark.parametrize("options", [None, {}, ASKED, ASKED_ALL])
async def test_client_sees_the_bytes_it_would_see_without_us(yard, options, tear):
    yard.engine.behaviour = Behaviour(**tear)
    answer = await yard.chat(stream=True, stream_options=options)
    assert answer.content == direct(yard.engine.behaviour, stream_options=options)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    usage = yard.journal.usage
    assert usage.counts == Counts(input=7, cached_input=4, output=5)
    assert (usage.cause, usage.estimated) == ("completed", False)
    assert usage.attribution.stream
    assert answer.headers["x-steelyard-request-id"] == f"req_{usage.id.hex()}"
    assert [intent.id for intent in yard.journal.intents] == [usage.id]
    assert yard.journal.voids == []


async def test_client_that_asks_as_we_do_gets_identical_bytes_both_ways(yard):
    text = json.dumps({"model": "tiny", "messages": [], "stream": True, "n": 1})[:-1]
    text += ',"stream_options":{"include_usage":true,"continuous_usage_stats":true}}'
    answer = await yard.http.post("/v1/chat/completions", content=text)
    assert yard.engine.last.text == text.encode()
    assert answer.content == yard.engine.last.sent


@pytest.mark.parametrize("shape", ["vllm", "sglang", "openai"])
async def test_client_that_did_not_ask_sees_no_usage(open_yard, shape):
    yard = await open_yard(engine=shape)
    yard.engine.behaviour = Behaviour(shape=shape)
    answer = await yard.chat(stream=True)
    chunks = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    assert len(chunks) == 7
    assert not any("usage" in chunk for chunk in chunks)
    assert all(chunk["choices"] for chunk in chunks)
    assert yard.journal.usage.counts == Counts(input=7, cached_input=4, output=5)


async def test_n_choices_are_summed(yard):
    yard.engine.behaviour = Behaviour(tokens=6)
    await yard.chat(stream=True, n=3)
    assert yard.journal.usage.counts == Counts(input=7, cached_input=4, output=18)


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
async def test_reasoning_is_information_inside_output(open_yard, shape):
    yard = await open_yard(engine=shape)
    yard.engine.behaviour = Behaviour(shape=shape, reasoning=3)
    await yard.chat(stream=True)
    assert yard.journal.usage.counts == Counts(input=7, cached_input=4, output=5, reasoning=3)


async def test_transformers_usage_on_the_finish_chunk_without_done(open_yard):
    yard = await open_yard(engine="transformers")
    yard.engine.behaviour = Behaviour(shape="transformers")
    answer = await yard.chat(stream=True)
    assert "stream_options" not in yard.engine.last.body
    assert answer.content == yard.engine.last.sent  # usage too: the meter did not ask for it
    assert yard.journal.usage.counts == Counts(input=11, output=5)
    assert not yard.journal.usage.estimated
    asked = await yard.chat(stream=True, stream_options=ASKED)
    assert asked.content == yard.engine.last.sent


@pytest.mark.parametrize("options", [None, ASKED])
async def test_completions_route(yard, options):
    body = {"model": "tiny", "prompt": "hi", "stream": True, "stream_options": options}
    answer = await yard.http.post("/v1/completions", json=body)
    pieces = Events("/v1/completions", {"stream_options": options}, Behaviour()).all()
    assert answer.content == b"".join(piece.text for piece in pieces)
    assert yard.journal.usage.attribution.route == "/v1/completions"


async def test_stream_without_done_ends_with_the_body(yard):
    yard.engine.behaviour = Behaviour(done=False)
    answer = await yard.chat(stream=True, stream_options=ASKED_ALL)
    assert answer.content == yard.engine.last.sent
    assert not yard.journal.usage.estimated


@pytest.mark.parametrize("done", [True, False])
async def test_close_delimited_stream(yard, done):
    yard.engine.behaviour = Behaviour(close_delimited=True, done=done)
    answer = await yard.chat(stream=True, stream_options=ASKED_ALL)
    assert answer.content == yard.engine.last.sent
    assert yard.journal.usage.cause == "completed"


async def test_stream_without_usage_is_a_flagged_lower_bound(yard):
    yard.engine.behaviour = Behaviour(usage=False)
    answer = await yard.chat(stream=True)
    assert answer.content == yard.engine.last.sent
    assert yard.journal.usage.counts == Counts(output=5)
    assert (yard.journal.usage.cause, yard.journal.usage.estimated) == ("completed", True)


async def test_engine_that_answers_a_stream_request_whole(yard):
    yard.engine.behaviour = Behaviour(answer=b'{"usage":{"prompt_tokens":2,"completion_tokens":1}}')
    answer = await yard.chat(stream=True)
    assert answer.content == yard.engine.behaviour.answer
    assert yard.journal.usage.counts == Counts(input=2, output=1)


class Reading:
    """A stream read in the background, so that a test can look at what has come so far."""

    def __init__(self, yard, **members) -> None:
        self.received = b""
        self._yard = yard
        self._members = {"model": "tiny", "messages": [], "stream": True, **members}
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> bytes:
        path, body = "/v1/chat/completions", self._members
        async with self._yard.http.stream("POST", path, json=body) as answer:
            async for part in answer.aiter_raw():
                self.received += part
        return self.received

    async def until(self, mark: bytes) -> None:
        await until(lambda: mark in self.received)


async def test_no_content_before_the_intent_is_durable(yard):
    yard.journal.gate.clear()
    asking = asyncio.create_task(yard.chat(stream=True))
    await until(lambda: yard.engine.served and yard.engine.last.ended)
    await asyncio.sleep(0.05)
    assert not asking.done()
    assert yard.journal.records == []
    yard.journal.gate.set()
    assert (await asking).content


async def test_the_end_waits_for_the_durable_event(yard):
    yard.engine.behaviour = Behaviour(pace_ms=20)
    reading = Reading(yard)
    await reading.until(b"w0")
    yard.journal.gate.clear()
    await reading.until(b"w3")
    await asyncio.sleep(0.1)
    assert b"[DONE]" not in reading.received
    assert yard.journal.usages == []
    yard.journal.gate.set()
    assert (await reading.task).endswith(b"data: [DONE]\n\n")
    assert len(yard.journal.usages) == 1


async def test_the_last_event_waits_where_there_is_no_done(open_yard):
    yard = await open_yard(engine="transformers")
    yard.engine.behaviour = Behaviour(shape="transformers", pace_ms=20)
    reading = Reading(yard)
    await reading.until(b"w0")
    yard.journal.gate.clear()
    await reading.until(b"w4")
    await asyncio.sleep(0.1)
    assert b'"length"' not in reading.received
    before = len(reading.received)
    yard.journal.gate.set()
    rest = (await reading.task)[before:]
    assert rest.count(b"data:") == 1
    assert b'"length"' in rest


async def test_end_that_cannot_be_made_durable_is_not_told(yard):
    yard.engine.behaviour = Behaviour(pace_ms=20)
    reading = Reading(yard)
    await reading.until(b"w0")
    yard.journal.refuses = True
    with pytest.raises(httpx.RemoteProtocolError):
        await reading.task
    assert b"[DONE]" not in reading.received


async def test_intent_that_cannot_be_written_is_503(yard):
    yard.journal.refuses = True
    answer = await yard.chat(stream=True)
    assert answer.status_code == 503
    assert b"w0" not in answer.content


async def test_checkpoints_follow_delivery(yard):
    yard.engine.behaviour = Behaviour(tokens=50, pace_ms=20)
    await yard.chat(stream=True)
    counts = [checkpoint.counts for checkpoint in yard.journal.checkpoints]
    outputs = [count.output for count in counts]
    assert len(outputs) >= 4
    assert outputs == sorted(set(outputs))
    assert all(count.input == 11 for count in counts)
    assert outputs[-1] <= 50
    final = yard.journal.records.index(yard.journal.usage)
    assert final == len(yard.journal.records) - 1
