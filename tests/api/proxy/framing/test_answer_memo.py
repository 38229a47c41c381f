"""An engine's head that was said before is not parsed again: never another answer for it.

Two connections get the same bytes: one that remembers a head, one that sees its first answer.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.proxy.said_head import VAIN_MAX
from api.proxy.upstream_connection import UpstreamConnection
from billing.errors import UpstreamError

HEAD = b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: application/json\r\n"


def answer(body: bytes, length: bytes | None = None, more: bytes = b"") -> bytes:
    said = b"%d" % len(body) if length is None else length
    return HEAD + b"content-length: " + said + b"\r\n" + more + b"\r\n" + body


class Wire:
    """A transport to an engine that says what a test feeds."""

    closed = False

    def is_closing(self) -> bool:
        return self.closed

    def writelines(self, parts: tuple[bytes, ...]) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.closed = True


class Counting(UpstreamConnection):
    """Counts how often the parser was fed."""

    parsed = 0

    def _parse(self, data: bytes) -> bool:
        self.parsed += 1
        return super()._parse(data)


def feed(*answers: list[bytes]) -> tuple[tuple[Any, ...], Counting]:
    """What one connection made of the last of these answers, each in its parts."""

    async def run() -> tuple[tuple[Any, ...], Counting]:
        connection = Counting(asyncio.get_running_loop())
        connection.connection_made(cast("asyncio.BaseTransport", Wire()))
        seen: tuple[Any, ...] = ()
        for parts in answers:
            connection.begin(b"POST / HTTP/1.1\r\n\r\n")
            for part in parts:
                if not connection.closed and not connection.aborted:
                    connection.data_received(part)
            seen = await seen_of(connection)
        return seen, connection

    return asyncio.run(run())


async def seen_of(connection: UpstreamConnection) -> tuple[Any, ...]:
    if not connection._has_head:
        return "no head", connection.aborted
    facts = connection.answer
    said = facts.stream, facts.encoded, facts.lines
    if not connection._complete and connection._failure is None:
        return connection.status, connection.headers, said, b"".join(connection._body), "more"
    try:
        body = b""
        while part := await connection.read():
            body += part
    except UpstreamError as failure:
        return connection.status, str(failure), connection.aborted
    ends = connection.ended, connection.reusable, connection.aborted, connection.waits_for_first
    return connection.status, connection.headers, said, body, ends


def test_the_same_head_is_parsed_once():
    bodies = [b"{}", b"{}", b'{"a":1}', b"", b"x" * 5_000]
    seen, connection = feed([answer(b"{}")], *([answer(body)] for body in bodies))
    assert connection.parsed == 1
    assert seen[3] == bodies[-1]
    assert (b"content-length", b"5000") in seen[1]


FIRST = [answer(b'{"id":"1"}')]
SECOND = [
    [answer(b"{}")],
    [answer(b"")],
    [answer(b"{}", b"02")],
    [answer(b"{}", b"+2")],
    [answer(b"{}", b" 2")],
    [answer(b"{}", b"2 ")],
    [answer(b"{}", b"2, 2")],
    [answer(b"{}", b"1")],
    [answer(b"{}", b"3")],
    [answer(b"{}", b"3"), b"x"],
    [answer(b"{}", b"")],
    [answer(b"{}", b"2\r\nContent-Length: 3")],
    [answer(b"{}", b"2\r\nTransfer-Encoding: chunked")],
    [answer(b"{}", more=b"Connection: close\r\n")],
    [answer(b"{}") + answer(b"{}")],
    [answer(b"{}"), answer(b"{}")],
    [answer(b"{}")[:-1], b"}"],
    [answer(b"{}")[:20], answer(b"{}")[20:]],
    [answer(b"{}").replace(b"\r\n", b"\n")],
    [answer(b"{}").replace(b"200", b"500")],
    [answer(b"{}").replace(b"200", b"204")],
    [answer(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0")],
    [b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"{}")],
    [b"HTTP/1.1 100 Continue\r\n\r\n", answer(b"{}")],
    [HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
]


@pytest.mark.parametrize("second", SECOND)
def test_a_second_answer_means_what_it_means_as_the_first(second: list[bytes]):
    assert feed(FIRST, second)[0] == feed(second)[0]


@st.composite
def altered(draw: st.DrawFn) -> list[bytes]:
    """An answer like the first one, with a few bytes changed, dropped or put in, in parts."""
    content = bytearray(answer(draw(st.binary(max_size=20))))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content) - 1))
        with_ = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b":", b" ", b"0", b"9", b"a"]))
        content[place : place + draw(st.integers(0, 2))] = with_
    cut = draw(st.one_of(st.just(0), st.integers(0, len(content))))
    return [part for part in (bytes(content[:cut]), bytes(content[cut:])) if part]


@given(altered())
def test_no_bytes_mean_another_answer_for_the_memory(second: list[bytes]):
    assert feed(FIRST, second)[0] == feed(second)[0]


@pytest.mark.parametrize(
    "first",
    [
        answer(b"{}", more=b"Connection: keep-alive\r\n"),
        answer(b"{}", more=b"X-Twice: 1\r\nX-Twice: 2\r\n"),
        answer(b"{}").replace(b"200 OK", b"400 Bad Request"),
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_head_that_means_more_than_it_says_is_not_remembered(first: bytes):
    assert feed([first])[1]._memo.recall(first) is None


def test_an_engine_that_repeats_no_head_is_not_remembered_for_ever():
    _, connection = feed(*([answer(b"{}", more=b"x-id: %d\r\n" % n)] for n in range(20)))
    assert (connection.parsed, connection._memo._vain) == (20, VAIN_MAX)
