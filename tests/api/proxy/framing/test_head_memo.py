"""A head that was said before is not parsed again: never another request for it.

Two connections get the same bytes: one that remembers a head, one that sees its first request.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.proxy.client_connection import ClientConnection
from api.proxy.client_request import ClientRequest
from api.proxy.head_memo import HeadMemo
from api.proxy.limits import Limits
from api.proxy.said_head import VAIN_MAX

HEADERS = (
    b"Host: here\r\nAccept: application/json\r\nX-Stainless-Lang: python\r\n"
    b"Authorization: Bearer sk-sy-0\r\n"
)


def request(body: bytes, length: bytes | None = None, more: bytes = b"") -> bytes:
    said = b"%d" % len(body) if length is None else length
    head = b"POST /v1/completions?a=b HTTP/1.1\r\n" + HEADERS + b"Content-Length: " + said
    return head + b"\r\n" + more + b"\r\n" + body


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, content: bytes) -> None:
        self.written += content

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.closed = True

    close = abort


class Seen:
    """A host that answers every request with 204, and keeps what they said."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.limits = Limits()
        self.connections: set[ClientConnection] = set()
        self.stopping = False
        self.requests: list[tuple[Any, ...]] = []

    async def serve(self, request: ClientRequest, client: ClientConnection) -> None:
        try:
            body: object = await asyncio.wait_for(request.body(1 << 20), timeout=0.001)
        except TimeoutError:
            body = "incomplete"
        fields, headers = dict(request.fields), list(request.headers)
        line = request.method, request.path, request.query
        self.requests.append((line, headers, fields, body, request.keeps_alive))
        request.answer(204, [], b"")


class Counting(ClientConnection):
    """Counts how often the parser was fed."""

    parsed = 0

    def _parse(self, data: bytes) -> bytes:
        self.parsed += 1
        return super()._parse(data)


def feed(*parts: bytes) -> tuple[list[tuple[Any, ...]], bytes, bool, Counting]:
    """What one connection made of these parts, each served before the next one comes."""

    async def run() -> tuple[list[tuple[Any, ...]], bytes, bool, Counting]:
        seen, wire = Seen(asyncio.get_running_loop()), Wire()
        connection = Counting(cast("Any", seen))
        connection.connection_made(cast("asyncio.BaseTransport", wire))
        before = 0, 0
        for part in parts:
            before = len(wire.written), len(seen.requests)
            if not wire.closed:
                connection.data_received(part)
            while connection._serving is not None:  # noqa: ASYNC110  # a few turns of the loop
                await asyncio.sleep(0)
        return seen.requests[before[1] :], wire.written[before[0] :], wire.closed, connection

    return asyncio.run(run())


def remembers(connection: ClientConnection) -> bool:
    return connection._memo is not None


def test_the_same_head_is_parsed_once():
    bodies = [b"{}", b"{}", b'{"a":1}', b"", b"x" * 5_000]
    said, _, _, connection = feed(request(b"{}"), *(request(body) for body in bodies))
    assert connection.parsed == 1
    assert said[-1][3] == bodies[-1]
    assert said[-1][2][b"content-length"] == b"5000"
    assert (b"content-length", b"5000") in said[-1][1]


FIRST = request(b'{"model":"m"}')
SECOND = [
    request(b"{}"),
    request(b""),
    request(b'{"model":"m"}'),
    request(b"{}", b"02"),
    request(b"{}", b"+2"),
    request(b"{}", b"-2"),
    request(b"{}", b" 2"),
    request(b"{}", b"2 "),
    request(b"{}", b"2\t"),
    request(b"{}", b"2, 2"),
    request(b"{}", b"0x2"),
    request(b"{}", b"2_0"),
    request(b"{}", "٢".encode()),
    request(b"{}", b"1"),
    request(b"{}", b"3"),
    request(b"{}", b""),
    request(b"{}", b"2\r\nContent-Length: 3"),
    request(b"{}", b"2\r\nTransfer-Encoding: chunked"),
    request(b"{}", b"2", b"Expect: 100-continue\r\n"),
    request(b"{}", b"2", b"Connection: close\r\n"),
    request(b"{}") + request(b"{}"),
    request(b"{}") + b"GET / HTTP/1.1\r\n",
    request(b"{}")[:-1],
    request(b"{}")[:40],
    request(b"{}").replace(b"\r\n", b"\n"),
    b"\r\n" + request(b"{}"),
    request(b"{}").replace(b"POST", b"GET "),
    request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
]


@pytest.mark.parametrize("second", SECOND)
def test_a_second_request_means_what_it_means_as_the_first(second: bytes):
    assert feed(FIRST, second)[:3] == feed(second)[:3]


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """A request like the first one, with a few bytes changed, dropped or put in."""
    content = bytearray(request(draw(st.binary(max_size=20))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content) - 1))
        with_ = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b":", b" ", b"0", b"9", b"a"]))
        content[place : place + draw(st.integers(0, 2))] = with_
    return bytes(content) or b"x"


@given(altered())
def test_no_bytes_mean_another_request_for_the_memory(second: bytes):
    assert feed(FIRST, second)[:3] == feed(second)[:3]


@pytest.mark.parametrize(
    "first",
    [
        request(b"{}", more=b"Expect: 100-continue\r\n"),
        request(b"{}", more=b"Connection: close\r\n"),
        request(b"{}", more=b"Connection: keep-alive, x\r\n"),
        request(b"{}", more=b"X-Twice: 1\r\nX-Twice: 2\r\n"),
        request(b"{}").replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2]
        + b"2\r\n{}\r\n0\r\n\r\n",
        request(b"{}") + request(b"{}"),
        b"GET /v1/models HTTP/1.1\r\n" + HEADERS + b"\r\n",
    ],
)
def test_a_head_that_means_more_than_it_says_is_not_remembered(first: bytes):
    assert not remembers(feed(first)[3])


def test_an_ordinary_head_is_remembered_without_its_body():
    memo = feed(request(b"secret body"))[3]._memo
    assert isinstance(memo, HeadMemo)
    kept = [getattr(part, name) for part in (memo, memo._said) for name in part.__slots__]
    assert "secret body" not in str([*kept, memo.facts])


def test_a_client_that_repeats_no_head_is_not_remembered_for_ever():
    said, _, _, connection = feed(
        *(request(b"{}", more=b"traceparent: %d\r\n" % number) for number in range(20))
    )
    assert len(said) == 1
    assert (connection.parsed, connection._memos) == (20, VAIN_MAX)
