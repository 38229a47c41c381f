"""Whose time a request's was: the backend's, the client's, or the proxy's own."""

from __future__ import annotations

import asyncio
import json

import pytest

from api.proxy.telemetry.course import INTER_TOKEN, OVERHEAD, QUEUE, Course
from billing.journal.records import Usage
from tests.api.proxy.conftest import KEY, Yard, until
from tests.fake_engine.shapes import Behaviour

SLOW_MS = 400
SLOW_US = SLOW_MS * 1000


async def finished(yard: Yard) -> Usage:
    await yard.settled()
    return yard.journal.usage


def overheads(yard: Yard) -> dict[str, str]:
    """The histogram's sum and count."""
    found = {}
    for line in yard.app.tally.render().decode().splitlines():
        if line.startswith("steelyard_proxy_overhead_seconds_"):
            name, _, value = line.removeprefix("steelyard_proxy_overhead_seconds_").rpartition(" ")
            if "bucket" not in name:
                found[name.partition("{")[0]] = value
    return found


@pytest.mark.parametrize("stream", [False, True])
async def test_the_figures_stand_behind_the_engines_own_in_one_order(yard, *, stream):
    await yard.chat(stream=stream)
    usage = await finished(yard)
    assert list(usage.raw)[-3:] == [QUEUE, INTER_TOKEN, OVERHEAD]
    assert usage.raw[QUEUE] > 0
    assert usage.raw[OVERHEAD] > 0
    assert overheads(yard)["count"] == "1.0"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_backend_is_not_our_overhead(yard, *, stream):
    yard.engine.behaviour = Behaviour(silent_ms=SLOW_MS)
    await yard.chat(stream=stream)
    usage = await finished(yard)
    assert usage.duration_us >= SLOW_US
    assert usage.raw[OVERHEAD] < SLOW_US
    # At the end of the answer, too: no more than what is left of the whole.
    whole_us = usage.duration_us + usage.raw[QUEUE]
    assert usage.raw[OVERHEAD] <= whole_us - SLOW_US


async def test_pauses_between_the_parts_of_a_stream_are_the_backends(yard):
    yard.engine.behaviour = Behaviour(pace_ms=100)
    await yard.chat(stream=True)
    usage = await finished(yard)
    assert usage.counts.output == 5
    assert usage.raw[OVERHEAD] <= usage.duration_us + usage.raw[QUEUE] - 400_000
    assert usage.raw[INTER_TOKEN] >= 95_000


async def test_a_slow_disk_is_our_overhead(yard):
    asking = asyncio.create_task(yard.chat())
    yard.journal.gate.clear()
    await until(lambda: yard.journal.waiting)
    await asyncio.sleep(SLOW_MS / 1000)
    yard.journal.gate.set()
    await asking
    await yard.settled()
    # The record cannot tell how long it took itself; the histogram can.
    assert float(overheads(yard)["sum"]) >= SLOW_MS / 1000
    assert (await finished(yard)).raw[OVERHEAD] < SLOW_US


async def test_a_stream_that_waits_for_its_intent_waits_for_us(yard):
    yard.journal.gate.clear()
    asking = asyncio.create_task(yard.chat(stream=True))
    await until(lambda: yard.engine.served and yard.engine.last.ended)
    await asyncio.sleep(SLOW_MS / 1000)
    yard.journal.gate.set()
    await asking
    assert (await finished(yard)).raw[OVERHEAD] >= SLOW_US


async def test_a_client_that_sends_its_body_slowly_is_not_our_overhead(yard):
    client = await yard.raw()
    body = json.dumps({"model": "tiny", "messages": []}).encode()
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body[:5])
    )
    await asyncio.sleep(SLOW_MS / 1000)
    await client.send(body[5:])
    await client.until(b"}")
    usage = await finished(yard)
    assert usage.raw[QUEUE] >= SLOW_US
    assert usage.raw[OVERHEAD] <= usage.duration_us + usage.raw[QUEUE] - SLOW_US + 5_000


async def test_a_client_that_does_not_read_is_not_our_overhead(yard):
    yard.engine.behaviour = Behaviour(tokens=40, filler=400_000)
    client = await yard.stream()
    await until(lambda: len(yard.journal.intents) == 1)
    await asyncio.sleep(2 * SLOW_MS / 1000)
    assert not yard.journal.usages
    async with asyncio.timeout(30):
        while not yard.journal.usages:
            await client.reader.read(1 << 20)
    usage = await finished(yard)
    assert usage.duration_us >= 2 * SLOW_US
    # Relative: on a busy machine sixteen megabytes take the proxy long too.
    assert usage.raw[OVERHEAD] <= usage.duration_us - SLOW_US


@pytest.mark.parametrize(
    "failing",
    [
        Behaviour(silent_ms=SLOW_MS, status=503, answer=b"x"),
        Behaviour(silent_ms=SLOW_MS, headless=True),
        Behaviour(silent_ms=SLOW_MS, empty=True),
    ],
)
async def test_an_attempt_that_failed_is_not_our_overhead(fleet, failing):
    fleet.behave(failing, Behaviour())
    await fleet.chat(stream=failing.answer is None)
    usage = await finished(fleet.yard)
    assert usage.attempts[0].duration_us >= SLOW_US
    assert usage.raw[OVERHEAD] <= usage.duration_us + usage.raw[QUEUE] - SLOW_US
    assert usage.ttft_us >= SLOW_US  # the client waited for both


def test_a_stream_of_one_token_has_no_time_between_tokens():
    course = Course(received_us=10, dispatched_us=20, first_byte_us=50, heard_us=350)
    assert course.inter_token_us(1) is None
    assert course.inter_token_us(4) == 100
    assert course.figures(0, 7) == {QUEUE: 10, INTER_TOKEN: 0, OVERHEAD: 7}
    assert course.ttft_us == 30
    assert Course(received_us=10, dispatched_us=20).ttft_us == 0


def test_the_queue_ends_with_the_first_attempt():
    course = Course(received_us=10)
    course.note_attempt(30)
    course.note_attempt(90)
    assert (course.queue_us, course.attempt_us) == (20, 90)
