"""Streams that do not end in order: who left, what was delivered, what is billed."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from api.proxy.limits import Limits
from billing.engines.stream_meter import StreamMeter
from billing.journal.records import Counts
from tests.api.proxy.conftest import until
from tests.fake_engine.shapes import Behaviour


@pytest.mark.parametrize("stream", [True, False])
async def test_client_that_leaves_in_silent_prefill_stops_the_engine(yard, stream):
    yard.engine.behaviour = Behaviour(silent_ms=30_000)
    client = await yard.stream(stream=stream)
    await until(lambda: yard.engine.served)
    client.leave()
    async with asyncio.timeout(1):
        await yard.engine.last.left.wait()
    await yard.settled()
    assert [void.reason for void in yard.journal.voids] == ["client_left"]
    assert yard.journal.usages == []


@pytest.mark.parametrize("leave_at", [0, 1, 3, 8])
@pytest.mark.parametrize("polite", [True, False])
async def test_client_that_leaves_is_billed_what_it_got(yard, leave_at, polite):
    yard.engine.behaviour = Behaviour(tokens=500, pace_ms=5)
    client = await yard.stream()
    await client.until(b'"role"')
    received = b""
    for number in range(leave_at):
        received += await client.until(b" w%d " % number)
    client.leave(polite=polite)
    async with asyncio.timeout(1):
        await yard.engine.last.left.wait()
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("client_left", True)
    assert usage.counts.input == 11
    assert leave_at <= usage.counts.output <= yard.engine.last.tokens
    for checkpoint in yard.journal.checkpoints:
        assert checkpoint.counts.output <= usage.counts.output


async def test_a_client_that_reads_nothing_is_billed_only_what_left(open_yard):
    yard = await open_yard(limits=Limits(client_stalled_ms=400))
    yard.engine.behaviour = Behaviour(tokens=6_000, filler=4_000)
    client = await yard.stream()
    client.writer.transport.pause_reading()
    await until(lambda: yard.engine.served)
    async with asyncio.timeout(10):
        await yard.engine.last.left.wait()
    await yard.settled()
    usage = yard.journal.usage
    assert usage.cause == "client_left"
    # Several megabytes wait in buffers of the kernel and of both processes, unbilled ones too.
    assert 0 < usage.counts.output < yard.engine.last.tokens < 6_000


async def test_engine_that_breaks_mid_stream_is_billed_and_seen(yard):
    yard.engine.behaviour = Behaviour(tokens=50, break_after=7, pace_ms=2)
    received = b""
    with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012  # it breaks while being read
        body = {"model": "tiny", "messages": [], "stream": True}
        async with yard.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for part in answer.aiter_raw():
                received += part
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("upstream_broke", True)
    assert received.count(b" w") == 7
    assert usage.counts == Counts(input=11, output=7)


async def test_engine_that_breaks_before_any_token_is_void(yard):
    yard.engine.behaviour = Behaviour(break_after=0, prompt=0)
    with pytest.raises(httpx.RemoteProtocolError):
        await yard.chat(stream=True)
    await yard.settled()
    assert yard.journal.usages == []
    assert [void.reason for void in yard.journal.voids] == ["upstream_broke"]


async def test_error_event_passes_and_bills_what_was_delivered(yard):
    yard.engine.behaviour = Behaviour(error_after=3, pace_ms=5)
    answer = await yard.chat(stream=True, stream_options={"include_usage": True})
    assert b"engine died" in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("upstream_broke", True)
    assert usage.counts == Counts(input=11, output=3)


async def test_lower_bound_without_continuous_counts(open_yard):
    yard = await open_yard(engine="openai")
    yard.engine.behaviour = Behaviour(shape="openai", tokens=40, break_after=6, pace_ms=2)
    with pytest.raises(httpx.RemoteProtocolError):
        await yard.chat(stream=True)
    await yard.settled()
    assert yard.journal.usage.counts == Counts(output=6)
    assert yard.journal.usage.estimated


async def test_silent_engine_is_504(open_yard):
    yard = await open_yard(limits=Limits(first_byte_ms=300))
    yard.engine.behaviour = Behaviour(hang=True)
    answers = [await yard.chat(), await yard.chat(stream=True)]
    yard.engine.behaviour = Behaviour(silent_ms=20_000)
    answers.append(await yard.chat(stream=True))
    assert [answer.status_code for answer in answers] == [504] * 3
    assert {answer.json()["error"]["code"] for answer in answers} == {"upstream_timeout"}
    assert [void.reason for void in yard.journal.voids] == ["timeout"] * 3


async def test_engine_that_stalls_mid_stream_is_cut(open_yard):
    yard = await open_yard(limits=Limits(stalled_ms=300))
    yard.engine.behaviour = Behaviour(pace_ms=20_000)
    with pytest.raises(httpx.RemoteProtocolError):
        await yard.chat(stream=True)
    await yard.settled()
    assert yard.journal.usage.cause == "timeout"
    assert yard.journal.usage.counts == Counts(input=11, output=1)


async def test_drain_finishes_what_can_and_cuts_the_rest(open_yard):
    yard = await open_yard(limits=Limits(drain_ms=500))
    yard.engine.behaviour = Behaviour(tokens=5, pace_ms=40)
    short = asyncio.create_task(yard.chat(stream=True))
    await until(lambda: len(yard.engine.served) == 1)
    yard.engine.behaviour = Behaviour(tokens=5_000, pace_ms=20)
    long = await yard.stream()
    await long.until(b" w1 ")
    draining = asyncio.create_task(yard.app.drain())
    await asyncio.sleep(0.02)
    assert (await yard.chat()).status_code == 503
    assert (await yard.http.get("/readyz")).status_code == 503
    assert b"[DONE]" in (await short).content
    await draining
    causes = sorted(usage.cause for usage in yard.journal.usages)
    assert causes == ["completed", "drained"]
    assert b"\r\n0\r\n\r\n" not in await long.rest()


async def test_client_that_leaves_after_the_final_usage_pays_it_exactly(yard):
    yard.engine.behaviour = Behaviour(tokens=3)
    client = await yard.stream(stream_options={"include_usage": True})
    await client.until(b'"choices":[],')
    client.leave(polite=True)
    await yard.settled()
    assert yard.journal.usage.counts == Counts(input=7, cached_input=4, output=3)
    assert not yard.journal.usage.estimated


async def test_leaving_clients_leave_nothing_behind(yard):
    yard.engine.behaviour = Behaviour(tokens=400, pace_ms=2)

    async def visit(number: int) -> None:
        client = await yard.stream()
        if number % 3:
            await client.until(b" w%d " % (number % 7))
        client.leave()

    await asyncio.gather(*(visit(number) for number in range(40)))
    await until(lambda: yard.app.tally.in_flight == 0)
    outcomes = yard.journal.usages + yard.journal.voids
    assert len(outcomes) == len({outcome.id for outcome in outcomes}) == len(yard.journal.intents)
    assert not yard.app._inference._plant.upstream._busy


async def test_a_defect_in_the_meter_leaves_no_operation_open(yard, monkeypatch):
    yard.engine.behaviour = Behaviour(tokens=10, pace_ms=20)
    grow = StreamMeter.grow

    def broken(meter, steady):
        if steady.completion == 6:
            raise ValueError("a defect")
        return grow(meter, steady)

    monkeypatch.setattr(StreamMeter, "grow", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        await yard.chat(stream=True)
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated, usage.counts.output) == ("upstream_broke", True, 5)
