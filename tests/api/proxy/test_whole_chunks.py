"""Chunks that arrive whole are read as the parser reads them, and nothing else is."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.proxy.whole_chunks import whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


class Parsed:
    """What the parser makes of a body whose chunks begin here."""

    def __init__(self, content: bytes) -> None:
        self.body = b""
        self.complete = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(HEAD)
        parser.feed_data(content)
        self.between = self.follows(parser)

    def follows(self, parser: httptools.HttpResponseParser) -> bool:
        """Whether a chunk may begin behind what was fed."""
        before, complete = self.body, self.complete
        try:
            parser.feed_data(chunk(b"probe"))
        except httptools.HttpParserError:
            return False
        probed, self.body = self.body[len(before) :], before
        return not complete and probed == b"probe"

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


PIECES = st.one_of(
    st.binary(min_size=1, max_size=40).map(chunk),
    st.sampled_from(
        [b"\r\n", b"\n", b"3", b"3\r\n", b"4\r\n4\r\n4\r\n", b"0\r\n\r\n", b"a;b=c\r\n"]
    ),
    st.binary(max_size=5),
)


@given(st.lists(PIECES, min_size=1, max_size=5).map(b"".join))
def test_what_is_read_is_what_the_parser_reads_and_leaves_it_between_chunks(content):
    read = whole_chunks(content)
    if read:
        parsed = Parsed(content)
        assert (parsed.body, parsed.complete, parsed.between) == (read, False, True)


@given(st.lists(st.binary(min_size=1, max_size=5_000), min_size=1, max_size=3))
def test_small_whole_chunks_are_read(contents):
    read = whole_chunks(b"".join(map(chunk, contents)))
    small = all(len(content) < 4 << 10 for content in contents)
    assert read == (b"".join(contents) if small else None)


def test_chunks_behind_something_else_are_read_from_where_they_begin():
    assert whole_chunks(HEAD + chunk(b"one"), len(HEAD)) == b"one"
    assert whole_chunks(HEAD, len(HEAD)) == b""


@pytest.mark.parametrize(
    "content",
    [
        b"0\r\n\r\n",
        b"3\r\nab",
        b"3\r\nabc",
        b"3\r\nabc\r",
        b"3\r\nabcd\r\n",
        b"3\nabc\r\n",
        b"3;name=value\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b"03\r\nabc\r\n",
        b"A\r\n0123456789\r\n",
        b"3\r\nabc\r\n1",
        b"3\r\nabc\r\n1\r\n",
        b"\r\n",
        b"f\r",
    ],
)
def test_everything_else_is_left_to_the_parser(content):
    assert whole_chunks(content) is None
