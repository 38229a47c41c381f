"""Clients that dawdle on the control plane's port."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn

from api.http_limits import LimitedConnection


class _Impatient(LimitedConnection):
    head_seconds = 0.4
    body_seconds = 0.6


async def _application(scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        _application, host="127.0.0.1", port=0, http=_Impatient, log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


async def sent(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(10):
            answer = await reader.read()
    writer.close()
    return answer


HEAD = b"POST /api/v1/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b""], 408),
        ([HEAD], 408),
        ([HEAD + b"content-length: 9\r\n\r\nabc"], 408),
        ([HEAD + b"x: " + b"a" * 70_000], 431),
    ],
)
async def test_a_request_that_does_not_come_is_ended_in_the_apis_words(port, parts, status):
    head, _, content = (await sent(port, *parts)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in head
    problem = json.loads(content)
    assert problem["status"] == status
    assert problem["code"]
    assert problem["detail"]


async def test_a_head_that_is_dribbled_ends_at_the_deadline(port):
    answer = await sent(port, *(HEAD[at : at + 1] for at in range(12)), pause=0.05)
    # Bytes that come after the answer reset the connection, and may take the answer with them.
    assert not answer or answer.startswith(b"HTTP/1.1 408 ")


async def test_a_request_in_time_is_served(port):
    body = b"content-length: 3\r\n\r\n"
    assert (await sent(port, HEAD + body, b"abc", pause=0.2)).startswith(b"HTTP/1.1 204 ")
