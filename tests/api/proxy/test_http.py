"""Clients that do not speak HTTP as they should."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from api.proxy.limits import Limits
from api.proxy.server import serving
from billing.errors import ConfigurationError
from tests.api.proxy.conftest import KEY, until
from tests.fake_engine.shapes import Behaviour

BODY = b'{"model":"tiny","messages":[]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer %b\r\n" % KEY.encode()
GOOD = HEAD + b"host: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


async def answered(yard, *texts: bytes) -> bytes:
    client = await yard.raw()
    for text in texts:
        await client.send(text)
    return await client.rest()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (HEAD + b"content-length: 0\r\n\r\n", 400),
        (HEAD + b"host: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n", 400),
        (
            HEAD + b"host: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (HEAD + b"host: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", 400),
        (HEAD + b"host: x\r\nbad name: 1\r\n\r\n", 400),
        (HEAD + b"host: x\r\nx: 1\r\n folded\r\ncontent-length: 0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (HEAD + b"host: x\r\nx: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (HEAD + b"host: x\r\nx: " + b"a" * 40_000, 431),
        (HEAD + b"host: x\r\n" + b"x: 1\r\n" * 200 + b"\r\n", 431),
    ],
)
async def test_not_http(yard, text, status):
    answer = await answered(yard, text)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
    assert yard.engine.served == []


async def test_slow_head_and_slow_body_are_408(open_yard):
    yard = await open_yard(limits=Limits(head_ms=300, body_ms=300, idle_ms=1_000))
    slow = [
        answered(yard, HEAD),
        answered(yard, HEAD + b"host: x\r\ncontent-length: 10\r\n\r\n12"),
    ]
    for answer in await asyncio.gather(*slow):
        assert answer.startswith(b"HTTP/1.1 408 ")
    assert await answered(yard, b"") == b""
    assert yard.engine.served == []


async def test_torn_requests_are_served(yard):
    client = await yard.raw()
    for start in range(0, len(GOOD), 9):
        await client.send(GOOD[start : start + 9])
        await asyncio.sleep(0)
    assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 200 ")
    assert yard.engine.last.text == BODY


async def test_pipelined_requests_are_answered_in_order(yard):
    client = await yard.raw()
    await client.send(GOOD + GOOD.replace(b'"tiny"', b'"nope"') + GOOD)
    statuses = []
    for _ in range(3):
        head = await client.until(b"\r\n\r\n")
        statuses.append(int(head.split()[1]))
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await client.reader.readexactly(length)
    assert statuses == [200, 404, 200]


async def test_an_answer_without_a_body_is_sent_too(yard):
    client = await yard.raw()
    await client.send(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + GOOD)
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_expect_continue(yard):
    client = await yard.raw()
    await client.send(
        HEAD + b"host: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    )
    assert b" 100 " in await client.until(b"\r\n\r\n")
    await client.send(BODY)
    assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_upgrade_to_another_protocol_is_ignored(yard):
    """Java's default client asks for h2c with its first request, and goes on in HTTP/1.1."""
    client = await yard.raw()
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMA\r\n"
    await client.send(GOOD.replace(b"host: x\r\n", b"host: x\r\n" + upgrade) + GOOD)
    for _ in range(2):
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await client.reader.readexactly(length)
    assert len(yard.engine.served) == 2


async def test_a_refusal_reaches_a_client_that_is_still_sending(open_yard):
    yard = await open_yard(limits=Limits(body_bytes=1_000))
    client = await yard.raw()
    await client.send(HEAD + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n")
    for _ in range(50):
        await client.send(b"1000\r\n" + b"a" * 4096 + b"\r\n")
    assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 413 ")
    assert yard.engine.served == []


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection(yard):
    client = await yard.raw()
    body = b'{"model":"tiny","messages":[],"stream":true}'
    head = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
    await client.send(head + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    head, _, content = (await client.rest()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert content.endswith(b"data: [DONE]\n\n")
    assert len(yard.journal.usages) == 1


async def test_a_port_in_use_stops_the_start(yard):
    with pytest.raises(ConfigurationError) as refused:
        async with serving(yard.app, port=yard.port):
            pass
    assert refused.value.remedy


async def test_too_many_connections_are_closed(open_yard):
    yard = await open_yard(limits=Limits(connections=2))
    clients = [await yard.raw() for _ in range(2)]
    await asyncio.sleep(0.05)
    got = b""
    with contextlib.suppress(ConnectionError):
        got = await answered(yard, GOOD)
    assert got == b""
    assert yard.engine.served == []
    await clients[0].send(GOOD)
    assert (await clients[0].until(b"\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_client_that_never_reads_its_answer_does_not_keep_it_in_memory(open_yard):
    yard = await open_yard(limits=Limits(client_stalled_ms=500, drain_ms=2_000))
    filler = b"a" * (30 << 20)
    yard.engine.behaviour = Behaviour(
        answer=b'{"usage":{"prompt_tokens":2,"completion_tokens":1},"x":"%b"}' % filler
    )
    client = await yard.raw()
    client.writer.transport.pause_reading()
    await client.post(b'{"model":"tiny","messages":[]}')
    await until(lambda: yard.journal.usages)
    await asyncio.sleep(3)
    client.writer.transport.resume_reading()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.reader.readexactly(len(filler))
