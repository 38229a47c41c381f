"""The bytes of a stream keep their order, at whatever instant its client reads again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from api.proxy.client_connection import ClientConnection, Host
from api.proxy.upstream_connection import UpstreamConnection
from tests.api.proxy.conftest import YardBuilder, until
from tests.fake_engine.shapes import Behaviour


@dataclass(slots=True)
class Ends:
    """Both ends of every relay, so that a test decides in which turn of the loop what comes."""

    clients: list[ClientConnection] = field(default_factory=list[ClientConnection])
    backends: list[UpstreamConnection] = field(default_factory=list[UpstreamConnection])


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    made = Ends()

    class WatchedClient(ClientConnection):
        def __init__(self, host: Host) -> None:
            super().__init__(host)
            made.clients.append(self)

    class WatchedBackend(UpstreamConnection):
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(loop)
            made.backends.append(self)

    monkeypatch.setattr("api.proxy.server.ClientConnection", WatchedClient)
    monkeypatch.setattr("api.proxy.upstream.UpstreamConnection", WatchedBackend)
    return made


def chunk(text: bytes) -> bytes:
    """What an engine sends for a piece of text."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % text
    return b"%x\r\n%b\r\n" % (len(event), event)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_as_a_client_reads_again_does_not_overtake(
    open_yard: YardBuilder, ends: Ends
) -> None:
    """The socket of the client and that of the backend are ready in the same turn of the loop."""
    yard = await open_yard()
    yard.engine.behaviour = Behaviour(tokens=500, pace_ms=30_000)
    client = await yard.stream()
    await client.until(b" w0 ")
    (link,), (backend,) = ends.clients, ends.backends
    await until(lambda: backend.tap is not None)
    link.pause_writing()
    backend.data_received(chunk(b"first"))
    await turns()  # the relay has read it, and waits for the client
    link.resume_writing()
    backend.data_received(chunk(b"second"))
    received = await client.until(b"second")
    assert b"first" in received


async def test_an_end_that_waits_for_its_client_is_not_overtaken(
    open_yard: YardBuilder, ends: Ends
) -> None:
    """What follows the end mark leaves behind it, and behind the usage event."""
    yard = await open_yard()
    yard.engine.behaviour = Behaviour(tokens=500, pace_ms=30_000)
    client = await yard.stream()
    await client.until(b" w0 ")
    (link,), (backend,) = ends.clients, ends.backends
    await until(lambda: backend.tap is not None)
    link.pause_writing()
    done = b"data: [DONE]\n\n"
    backend.data_received(chunk(b"last") + b"%x\r\n%b\r\n" % (len(done), done))
    await turns()
    link.resume_writing()
    tail = b": bye\n\n"
    backend.data_received(b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
    received = await client.until(b"0\r\n\r\n")
    places = [received.find(part) for part in (b"last", b"[DONE]", b": bye")]
    assert places == sorted(places)
    assert min(places) >= 0
    await yard.settled()
    assert yard.journal.usage.cause == "completed"
