"""A contract may have an engine read on when its client has left: then the answer is billed whole.

Only an answer whose usage is known is billed beyond what was delivered; whatever else becomes of
it is billed as everywhere, and the engine is stopped after a bounded time.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from msgspec import structs

from api.proxy.limits import Limits
from billing.admission.terms import AdmissionPolicy, OnClientLeft
from billing.journal.records import Counts
from tests.api.proxy.conftest import TENANT, Yard, until
from tests.fake_engine.played import HEAD
from tests.fake_engine.shapes import Behaviour, Events

WHOLE = Counts(input=7, cached_input=4, output=40)


def read_on(yard: Yard, *, drain_ms: int = 30_000) -> None:
    snapshot = yard.control.snapshot
    policy = AdmissionPolicy(on_client_left=OnClientLeft.DRAIN, drain_ms=drain_ms)
    terms = replace(snapshot.terms[TENANT], policy=policy)
    yard.control.snapshot = replace(snapshot, terms={TENANT: terms})


def serve_from(yard: Yard, base_url: str) -> None:
    snapshot = yard.control.snapshot
    tiny = snapshot.models["tiny"]
    moved = replace(tiny, backends=(replace(tiny.backends[0], base_url=base_url),))
    yard.control.snapshot = replace(snapshot, models={**snapshot.models, "tiny": moved})


def nothing_is_left_open(yard: Yard) -> bool:
    inference = yard.app._inference
    assert inference._plant is not None
    return not inference._live and not inference._plant.upstream._busy


@pytest.mark.parametrize("leave_at", [None, 0, 7])
@pytest.mark.parametrize("polite", [True, False])
async def test_a_stream_is_read_to_its_end_and_billed_whole(yard, leave_at, polite):
    read_on(yard)
    yard.engine.behaviour = Behaviour(tokens=40, pace_ms=5, silent_ms=50)
    client = await yard.stream()
    await until(lambda: yard.engine.served)
    if leave_at is not None:
        await client.until(b" w%d " % leave_at)
    client.leave(polite=polite)
    await yard.settled()
    usage = yard.journal.usage
    assert yard.engine.last.ended
    assert (usage.cause, usage.estimated, usage.counts) == ("client_left", False, WHOLE)
    assert usage.at_us > 0
    assert yard.journal.voids == []
    assert nothing_is_left_open(yard)


async def test_a_whole_answer_is_billed_though_nobody_waits_for_it(yard):
    read_on(yard)
    yard.engine.behaviour = Behaviour(tokens=40, silent_ms=200)
    client = await yard.stream(stream=False)
    await until(lambda: yard.engine.served)
    client.leave()
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated, usage.counts) == ("client_left", False, WHOLE)
    assert yard.app.tally.answers["/v1/chat/completions", 499] == 1


async def test_a_client_that_reads_nothing_is_cut_and_its_answer_read_on(open_yard):
    yard = await open_yard(limits=Limits(client_stalled_ms=400))
    read_on(yard)
    yard.engine.behaviour = Behaviour(tokens=2_500, filler=4_000)
    client = await yard.stream()
    client.writer.transport.pause_reading()
    await until(lambda: yard.engine.served)
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated, usage.counts.output) == ("client_left", False, 2_500)


async def test_reading_on_is_bounded_and_then_what_was_delivered_is_billed(yard):
    read_on(yard, drain_ms=200)
    yard.engine.behaviour = Behaviour(tokens=5_000, pace_ms=5)
    client = await yard.stream()
    await client.until(b" w3 ")
    client.leave()
    async with asyncio.timeout(2):
        await yard.engine.last.left.wait()
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("client_left", True)
    assert 3 <= usage.counts.output < yard.engine.last.tokens - 5
    assert nothing_is_left_open(yard)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_stays_silent_is_stopped_and_nothing_is_billed(yard, stream):
    read_on(yard, drain_ms=200)
    yard.engine.behaviour = Behaviour(silent_ms=30_000)
    client = await yard.stream(stream=stream)
    await until(lambda: yard.engine.served)
    client.leave()
    async with asyncio.timeout(2):
        await yard.engine.last.left.wait()
    await yard.settled()
    assert yard.journal.usages == []
    assert [void.reason for void in yard.journal.voids] == ["client_left"]


async def test_an_engine_that_breaks_meanwhile_is_billed_as_delivered_and_not_asked_again(yard):
    read_on(yard)
    yard.engine.behaviour = Behaviour(tokens=50, break_after=20, pace_ms=5)
    client = await yard.stream()
    await client.until(b" w3 ")
    client.leave()
    await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("client_left", True)
    assert 3 <= usage.counts.output < 20
    assert len(yard.engine.served) == 1


@pytest.mark.parametrize("stalls", [True, False])
async def test_an_answer_whose_usage_was_told_is_billed_whole_though_it_never_ends(
    open_yard, stalls
):
    yard = await open_yard(limits=Limits(client_stalled_ms=400))
    told, asked = asyncio.Event(), asyncio.Event()
    behaviour = Behaviour(tokens=2_500 if stalls else 40, filler=4_000 if stalls else 0, done=False)
    body = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    events = Events("/v1/chat/completions", body, behaviour).all()
    wire = b"".join(piece.text for piece in events)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await told.wait()
        writer.write(HEAD % b"text/event-stream" + b"%x\r\n%b\r\n" % (len(wire), wire))
        await reader.read()  # until the proxy gives up
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        read_on(yard, drain_ms=1_000)
        serve_from(yard, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        client = await yard.stream()
        client.writer.transport.pause_reading()
        await asked.wait()
        if not stalls:
            client.leave()
            await until(lambda: next(iter(yard.app._inference._live)).left)
        told.set()
        await yard.settled()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("client_left", False)
    assert usage.counts == structs.replace(WHOLE, output=behaviour.tokens)


async def test_nothing_is_asked_again_for_a_client_that_has_left(open_yard):
    yard = await open_yard(engine="generic")
    read_on(yard)
    refusal = b'{"error":{"message":"stream_options: extra fields not permitted"}}'
    yard.engine.behaviour = Behaviour(status=400, answer=refusal, silent_ms=200)
    client = await yard.stream()
    await until(lambda: yard.engine.served)
    client.leave()
    await yard.settled()
    assert len(yard.engine.served) == 1
    assert yard.journal.usages == []
    assert [void.reason for void in yard.journal.voids] == ["client_left"]


@pytest.mark.parametrize("stream", [True, False])
async def test_by_default_the_engine_is_stopped_within_a_second(yard, stream):
    yard.engine.behaviour = Behaviour(silent_ms=30_000)
    client = await yard.stream(stream=stream)
    await until(lambda: yard.engine.served)
    client.leave()
    async with asyncio.timeout(1):
        await yard.engine.last.left.wait()
    await yard.settled()
    assert [void.reason for void in yard.journal.voids] == ["client_left"]


async def test_a_stop_of_the_proxy_does_not_wait_for_it(open_yard):
    yard = await open_yard(limits=Limits(drain_ms=100))
    read_on(yard)
    yard.engine.behaviour = Behaviour(tokens=5_000, pace_ms=5)
    client = await yard.stream()
    await client.until(b" w3 ")
    client.leave()
    await until(lambda: next(iter(yard.app._inference._live)).left)
    async with asyncio.timeout(3):
        await yard.app.drain()
    usage = yard.journal.usage
    assert (usage.cause, usage.estimated) == ("client_left", True)
    assert usage.counts.output >= 3
    assert nothing_is_left_open(yard)
