"""Bytes that two readers could take for different requests, and clients that drag their feet.

Whatever cannot be read in one way only is refused before a backend hears of it, and what a backend
gets was framed anew.
"""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.proxy.limits import Limits
from tests.api.proxy.conftest import KEY

BODY = b'{"model":"tiny","messages":[]}'
START = b"POST /v1/chat/completions HTTP/1.1\r\n"
KEYED = START + b"host: x\r\nauthorization: Bearer %b\r\n" % KEY.encode()
GOOD = KEYED + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
SMUGGLED = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


def chunked(body: bytes, *, size: bytes | None = None) -> bytes:
    return b"%b\r\n%b\r\n0\r\n\r\n" % (size or b"%x" % len(body), body)


async def answers(yard, text: bytes, *, seconds: float = 5) -> list[int]:
    """Statuses of everything that comes back until the connection closes or falls silent."""
    client = await yard.raw()
    await client.send(text)
    statuses = []
    try:
        async with asyncio.timeout(seconds):
            while True:
                head = await client.reader.readuntil(b"\r\n\r\n")
                statuses.append(int(head.split()[1]))
                lowered = head.lower()
                if b"content-length: " in lowered:
                    length = int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0])
                    await client.reader.readexactly(length)
    except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        return statuses


@pytest.mark.parametrize(
    "text",
    [
        KEYED + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        KEYED + b"transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n" + SMUGGLED,
        KEYED + b"content-length: 30\r\ncontent-length: 0\r\n\r\n" + BODY + SMUGGLED,
        KEYED + b"content-length: 30, 30\r\n\r\n" + BODY,
        KEYED + b"content-length: +30\r\n\r\n" + BODY,
        KEYED + b"content-length: 0x1e\r\n\r\n" + BODY,
        KEYED + b"content-length: -1\r\n\r\n" + BODY,
        KEYED + b"content-length: 99999999999999999999\r\n\r\n" + BODY,
        KEYED + b"transfer-encoding: xchunked\r\n\r\n" + chunked(BODY),
        KEYED + b"transfer-encoding: chunked, identity\r\n\r\n" + chunked(BODY),
        KEYED + b"transfer-encoding : chunked\r\n\r\n" + chunked(BODY),
        KEYED + b"transfer-encoding:\x0bchunked\r\n\r\n" + chunked(BODY),
        KEYED + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY, size=b"-1e"),
        KEYED + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY, size=b"0x1e"),
        KEYED + b"transfer-encoding: chunked\r\n\r\n" + chunked(BODY, size=b"f" * 17),
        KEYED + b"transfer-encoding: chunked\r\n\r\n1e\n" + BODY + b"\n0\n\n",
        KEYED + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n",
        KEYED + b"x: a\rb\r\ncontent-length: 0\r\n\r\n",
        GOOD.replace(b"\r\n", b"\n"),
        START.replace(b"HTTP/1.1", b"HTTP/1.1 ") + GOOD[len(START) :],
        START.replace(b"HTTP/1.1", b"HTTP/3.7") + GOOD[len(START) :],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n" + GOOD,
    ],
)
async def test_what_can_be_read_in_two_ways_reaches_no_backend(yard, text):
    statuses = await answers(yard, text)
    assert statuses in ([400], [400, 400], [])
    assert yard.engine.served == []


async def test_chunks_with_extensions_and_trailers_are_one_request(yard):
    text = KEYED + b"transfer-encoding: chunked\r\n\r\n"
    text += b"5;ext=1\r\n" + BODY[:5] + b"\r\n19\r\n" + BODY[5:] + b"\r\n0\r\nx-trailer: 1\r\n\r\n"
    assert await answers(yard, text + GOOD, seconds=1) == [200, 200]
    assert [served.text for served in yard.engine.served] == [BODY, BODY]


async def test_nothing_is_served_after_connection_close(yard):
    closing = GOOD.replace(b"host: x", b"host: x\r\nconnection: close")
    assert await answers(yard, closing + GOOD) == [200]
    assert len(yard.engine.served) == 1


async def test_what_came_before_a_broken_request_is_answered(yard):
    assert await answers(yard, GOOD + b"\x00\x01" + GOOD) == [200, 400]
    assert len(yard.engine.served) == len(yard.journal.usages) == 1


async def test_an_absolute_target_is_its_path(yard):
    text = GOOD.replace(b" /v1", b" http://somewhere.example/v1")
    assert await answers(yard, text, seconds=1) == [200]


async def test_a_websocket_is_not_opened(yard):
    text = b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    assert await answers(yard, text + b"sec-websocket-version: 13\r\n\r\n", seconds=1) == [404]


async def test_a_refused_request_gets_no_continue(yard):
    text = START + b"host: x\r\nexpect: 100-continue\r\ncontent-length: 30\r\n\r\n"
    assert await answers(yard, text) == [401]


async def test_what_a_refused_request_still_sends_is_no_request(yard):
    """The body of a refused request is read to its end, or the connection is closed."""
    unkeyed = START + b"host: x\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED)
    assert await answers(yard, unkeyed + SMUGGLED + GOOD, seconds=1) == [401, 200]
    assert len(yard.engine.served) == 1


async def test_dribbled_heads_and_bodies_end_at_the_deadline(open_yard):
    yard = await open_yard(limits=Limits(head_ms=400, body_ms=400))

    async def dribble(text: bytes) -> bytes:
        client = await yard.raw()
        try:
            for start in range(len(text)):
                await client.send(text[start : start + 1])
                await asyncio.sleep(0.05)
        except ConnectionError:
            return b""
        return await client.rest()

    text = KEYED + b"content-length: 30\r\n\r\n"
    client = await yard.raw()
    await client.send(text)
    dribbled = asyncio.create_task(dribble(GOOD[:60]))
    assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 408 ")
    answer = await dribbled
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408 ")
    assert yard.engine.served == []


async def test_hundreds_of_pipelined_requests_are_answered_once_each(yard):
    assert await answers(yard, GOOD * 100, seconds=3) == [200] * 100
    assert len(yard.engine.served) == len(yard.journal.usages) == 100


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cuts=st.lists(st.integers(1, 3 * len(GOOD) - 1), max_size=12))
def test_torn_anywhere_it_is_the_same(loop_yard, cuts):
    run, yard = loop_yard
    text = GOOD + GOOD.replace(b'"tiny"', b'"nope"') + GOOD

    async def torn() -> list[int]:
        client = await yard.raw()
        places = [0, *sorted(set(cuts)), len(text)]
        for start, end in itertools.pairwise(places):
            await client.send(text[start:end])
            await asyncio.sleep(0)
        statuses = []
        for _ in range(3):
            head = await client.until(b"\r\n\r\n")
            statuses.append(int(head.split()[1]))
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            json.loads(await client.reader.readexactly(length))
        await client.close()
        return statuses

    assert run(torn()) == [200, 404, 200]
