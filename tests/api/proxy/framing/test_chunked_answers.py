"""A body in chunks is the same however its bytes arrive, tapped or read."""

from __future__ import annotations

import asyncio
import itertools
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from api.proxy.upstream_connection import UpstreamConnection
from tests.api.proxy.framing.test_answer_memo import Counting, Wire

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
CONTENTS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=30),
        st.sampled_from([b"\r\n", b"4\r\n4", b"0\r\n\r\n", b"\r\n\r\n", b"x" * 5_000]),
    ),
    min_size=1,
    max_size=6,
)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def received(parts: list[bytes], *, tapped: bool) -> tuple[bytes, bool, int]:
    """The body, whether it is complete, and how often the parser was fed."""

    async def run() -> tuple[bytes, bool, int]:
        connection = Counting(asyncio.get_running_loop())
        connection.connection_made(cast("asyncio.BaseTransport", Wire()))
        connection.begin(b"asked")
        body: list[bytes] = []

        def tap(content: bytes) -> bool:
            body.append(content)
            return True

        for part in parts:
            connection.tap = tap if tapped else None
            connection.data_received(part)
        complete = connection.reusable
        while complete and (rest := await connection.read()):
            body.append(rest)
        if not complete:
            connection.connection_lost(None)
        return b"".join(body), complete, connection.parsed

    return asyncio.run(run())


@given(CONTENTS, st.sets(st.integers(1, 400)), st.booleans())
def test_the_body_is_the_same_wherever_its_bytes_are_split(contents, cuts, tapped):
    answer = HEAD + b"".join(map(chunk, contents)) + LAST
    places = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    parts = [answer[start:end] for start, end in itertools.pairwise(places)]
    body, complete, _ = received(parts, tapped=tapped)
    assert (body, complete) == (b"".join(contents), True)


def test_chunks_that_arrive_whole_are_not_parsed():
    contents = [b"one", b"two, and more", b"three"]
    parts = [HEAD, *map(chunk, contents), chunk(b"x") + chunk(b"y"), LAST]
    assert received(parts, tapped=True) == (b"".join(contents) + b"xy", True, 2)
    assert received([HEAD + chunk(b"x"), chunk(b"y"), LAST], tapped=True) == (b"xy", True, 2)


def test_a_body_of_which_a_part_of_a_chunk_came_is_parsed_to_its_end():
    parts = [HEAD, b"3\r\na", b"bc\r\n", chunk(b"d"), LAST]
    assert received(parts, tapped=True) == (b"abcd", True, len(parts))


def test_a_body_by_length_that_looks_like_chunks_is_not_taken_for_them():
    body = chunk(b"abc")
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert received([head, body], tapped=True)[:2] == (body, True)


def test_an_early_hint_before_the_head_leaves_it_to_the_parser():
    parts = [b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD, chunk(b"abc"), LAST]
    assert received(parts, tapped=True) == (b"abc", True, 3)


def test_an_answer_after_one_in_chunks_begins_with_its_head():
    async def run() -> None:
        connection = UpstreamConnection(asyncio.get_running_loop())
        connection.connection_made(cast("asyncio.BaseTransport", Wire()))
        for _ in range(2):
            connection.begin(b"asked")
            for part in (HEAD, chunk(b"abc"), LAST):
                connection.data_received(part)
            assert await connection.read() == b"abc"
            assert connection.ended
            assert connection.reusable

    asyncio.run(run())
