"""What a connection took is free when it closes, however its requests ended.

Circles of objects stay until the garbage collector looks for them. Those that were made while many
others were in flight are old by then and are hardly ever looked for: a crowd of clients that left
stayed in memory for hours.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.exchange import Exchange
from api.proxy.limits import Limits
from api.proxy.stream import StreamRelay
from api.proxy.upstream_connection import UpstreamConnection
from tests.api.proxy.conftest import KEY, Yard, YardBuilder, until
from tests.fake_engine.shapes import Behaviour

KEPT = (ClientConnection, ClientRequest, UpstreamConnection, Exchange, StreamRelay)
LIMITS = Limits(pool_size=0, first_byte_ms=200, body_ms=200, body_bytes=4096)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n" % KEY.encode()
)
BODY = b'{"model":"tiny","messages":[]}'
WHOLE = b"%bcontent-length: %d\r\n\r\n%b" % (HEAD, len(BODY), BODY)


def alive() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, KEPT)]


async def _ends(yard: Yard, *, stream: bool) -> None:
    client = await yard.stream(stream=stream)
    await client.until(b"[DONE]" if stream else b'"usage"')
    await yard.settled()
    await client.close()


async def _leaves(yard: Yard, *, stream: bool, polite: bool = False) -> None:
    """While the engine is silent."""
    yard.engine.behaviour = Behaviour(hang=True)
    client = await yard.stream(stream=stream)
    await until(lambda: yard.engine.served)
    client.leave(polite=polite)
    await yard.settled()


async def _leaves_within_a_stream(yard: Yard) -> None:
    yard.engine.behaviour = Behaviour(pace_ms=20, tokens=50)
    client = await yard.stream()
    await client.until(b"data: ")
    client.leave()
    await yard.settled()


async def _sends(yard: Yard, text: bytes) -> None:
    """And leaves once the proxy has heard it."""
    client = await yard.raw()
    await client.send(text)
    await until(alive)
    await yard.http.get("/v1/models")
    client.leave()


async def _is_refused(yard: Yard, text: bytes, status: bytes) -> None:
    client = await yard.raw()
    await client.send(text)
    assert (await client.until(b"\r\n")).split()[1] == status
    client.leave()


async def _fails(yard: Yard, behaviour: Behaviour, *, stream: bool) -> None:
    yard.engine.behaviour = behaviour
    client = await yard.stream(stream=stream)
    await client.until(b"\r\n")
    await yard.settled()
    client.leave()


async def _no_backend(yard: Yard) -> None:
    client = await yard.stream(model="dead")
    await client.until(b"\r\n")
    await yard.settled()
    client.leave()


async def _no_journal(yard: Yard, *, stream: bool) -> None:
    yard.journal.refuses = True
    client = await yard.stream(stream=stream)
    await client.until(b"\r\n")
    await yard.settled()
    client.leave()


ENDINGS: dict[str, Callable[[Yard], Awaitable[None]]] = {
    "whole": lambda yard: _ends(yard, stream=False),
    "stream": lambda yard: _ends(yard, stream=True),
    "leaves before a whole answer": lambda yard: _leaves(yard, stream=False),
    "leaves before a stream": lambda yard: _leaves(yard, stream=True),
    "closes before a whole answer": lambda yard: _leaves(yard, stream=False, polite=True),
    "closes before a stream": lambda yard: _leaves(yard, stream=True, polite=True),
    "leaves within a stream": _leaves_within_a_stream,
    "leaves within a head": lambda yard: _sends(yard, HEAD),
    "leaves within a body": lambda yard: _sends(yard, HEAD + b"content-length: 99\r\n\r\n{"),
    "leaves with requests behind one": lambda yard: _sends(yard, WHOLE * 3),
    "leaves with half a request behind one": lambda yard: _sends(yard, WHOLE + HEAD),
    "no key": lambda yard: _is_refused(yard, WHOLE.replace(b"Bearer", b"Basic"), b"401"),
    "no route": lambda yard: _is_refused(yard, WHOLE.replace(b"chat", b"chats"), b"404"),
    "no JSON": lambda yard: _is_refused(yard, WHOLE.replace(b'{"', b'("'), b"400"),
    "no model": lambda yard: _is_refused(yard, WHOLE.replace(b"tiny", b"huge"), b"404"),
    "no such member": lambda yard: _is_refused(
        yard, WHOLE.replace(b'"messages"', b'"massages"'), b"400"
    ),
    "no HTTP": lambda yard: _is_refused(yard, b"GET / HTTP/9.9\r\n\r\n", b"400"),
    "no HTTP behind one": lambda yard: _is_refused(yard, WHOLE + b"nonsense\r\n\r\n", b"200"),
    "too large": lambda yard: _is_refused(yard, HEAD + b"content-length: 9999\r\n\r\n", b"413"),
    "too slow": lambda yard: _is_refused(yard, HEAD + b"content-length: 9\r\n\r\n", b"408"),
    "engine hangs": lambda yard: _fails(yard, Behaviour(hang=True), stream=False),
    "engine hangs up": lambda yard: _fails(yard, Behaviour(drops=True), stream=False),
    "engine fails": lambda yard: _fails(yard, Behaviour(status=500, answer=b"x"), stream=True),
    "engine breaks off": lambda yard: _fails(yard, Behaviour(break_after=2), stream=False),
    "stream hangs up": lambda yard: _fails(yard, Behaviour(drops=True), stream=True),
    "stream breaks off": lambda yard: _fails(yard, Behaviour(break_after=2), stream=True),
    "stream has an error": lambda yard: _fails(yard, Behaviour(error_after=2), stream=True),
    "stream has a head only": lambda yard: _fails(yard, Behaviour(headless=True), stream=True),
    "stream is empty": lambda yard: _fails(yard, Behaviour(empty=True), stream=True),
    "no backend": _no_backend,
    "no journal": lambda yard: _no_journal(yard, stream=False),
    "no journal for a stream": lambda yard: _no_journal(yard, stream=True),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_closed_connections_are_free_at_once(open_yard: YardBuilder, ending: str) -> None:
    yard = await open_yard(limits=LIMITS)
    gc.collect()
    gc.disable()
    try:
        await ENDINGS[ending](yard)
        await yard.http.aclose()
        await until(lambda: not alive())
    finally:
        gc.enable()
