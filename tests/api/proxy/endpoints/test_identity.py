"""A client that asks exactly as the proxy would ask gets what a direct call gets.

Compared are the bytes on the wire behind the framing: status line, order and values of headers,
body. `OURS` and `OF_A_HOP` are all that may differ.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace

import httptools
import pytest

from billing.admission.route import Dialect, Route
from billing.engines.capabilities import ENGINES
from tests.api.proxy.conftest import KEY
from tests.api.proxy.endpoints.asks import ASKS, CHAT_STREAM, JSON, Ask, body, chunk
from tests.api.proxy.endpoints.test_backends import configure
from tests.fake_engine.scripted import Script

OURS = {b"x-steelyard-request-id"}
OF_A_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length"}
TOLD = (
    ("Server", "an engine"),
    ("X-Request-Id", "a, b"),
    ("Set-Cookie", "a=1"),
    ("set-cookie", "b=2"),
    ("x-empty", ""),
    ("openai-processing-ms", "12"),
)

COMPLETION_STREAM = Ask(
    route=Route.COMPLETIONS,
    body=body(
        Route.COMPLETIONS,
        prompt="hi",
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    ),
    script=CHAT_STREAM,
)
SPEECH = next(ask for ask in ASKS if ask.route is Route.SPEECH)
SPEECH_IN_CHUNKS = replace(SPEECH, script=replace(SPEECH.script, chunked=True))
STREAMS = (*(ask for ask in ASKS if ask.script.chunked), COMPLETION_STREAM)
EVERY_ASK = (*ASKS, COMPLETION_STREAM, SPEECH_IN_CHUNKS)
SPOKEN = tuple(
    (name, ask)
    for name, engine in ENGINES.items()
    for ask in EVERY_ASK
    if ask.route.spec.dialect in {Dialect.PLAIN, *engine.dialects}
)
REFUSAL = json.dumps({"error": {"message": "no: ü", "type": "x", "code": 7}}, indent=3).encode()


@dataclass(slots=True)
class Answer:
    """What a client read, its framing taken off."""

    status: bytes = b""
    headers: list[tuple[bytes, bytes]] | None = None
    body: bytes = b""
    complete: bool = False

    def on_status(self, status: bytes) -> None:
        self.status = status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers = [*(self.headers or []), (name, value)]

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

    def compared(self) -> tuple[list[tuple[bytes, bytes]], bytes, bool]:
        """Everything but what may differ; names of headers are the same in any case."""
        skipped = OURS | OF_A_HOP
        headers = [(name.lower(), value) for name, value in self.headers or []]
        return [one for one in headers if one[0] not in skipped], self.body, self.complete


async def asked(port: int, ask: Ask, text: bytes) -> tuple[int, Answer]:
    """Ask on a connection of its own and read to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-type: %b\r\n"
        b"accept: */*\r\nuser-agent: us\r\ncontent-length: %d\r\n\r\n"
        % (ask.route.value.encode(), KEY.encode(), ask.content_type, len(text))
    )
    writer.write(text)
    answer = Answer()
    parser = httptools.HttpResponseParser(answer)
    async with asyncio.timeout(20):
        while not answer.complete and (data := await reader.read(65536)):
            parser.feed_data(data)
    writer.close()
    return parser.get_status_code(), answer


async def require_same(desk, ask: Ask, text: bytes) -> Answer:
    """Ask there and here; the engine must see one request twice, and the client one answer."""
    desk.engine.seen.clear()
    there = await asked(desk.engine.port, ask, text)
    here = await asked(desk.port, ask, text)
    first, second = desk.engine.seen[0], desk.engine.seen[-1]
    assert (second.method, second.path, second.body) == (first.method, first.path, first.body)
    for name in ("content-type", "accept", "user-agent", "content-length"):
        assert second.headers[name] == first.headers[name]
    assert here[0] == there[0]
    assert here[1].compared() == there[1].compared()
    ids = [value for name, value in here[1].headers or [] if name in OURS]
    assert len(ids) == 1
    assert ids[0].startswith(b"req_")
    return here[1]


@pytest.mark.parametrize("ask", EVERY_ASK, ids=lambda ask: ask.name)
async def test_bytes_equal_a_direct_call(desk, ask: Ask):
    desk.engine.script = replace(ask.script, headers=TOLD)
    answer = await require_same(desk, ask, ask.body)
    assert answer.complete
    assert answer.body == ask.script.body


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize("ask", EVERY_ASK, ids=lambda ask: ask.name)
async def test_refusals_of_the_engine_equal_a_direct_call(desk, ask: Ask, status: int):
    told = (*TOLD, ("retry-after", "3"), ("x-ratelimit-remaining-requests", "0"))
    desk.engine.script = Script(pieces=(REFUSAL,), status=status, headers=told)
    answer = await require_same(desk, ask, ask.body)
    assert answer.body == REFUSAL


ENDINGS = (
    chunk([], {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}),
    b'data: {"error": {"message": "engine died", "code": 500}}\n\n',
    b": a comment\r\n\r\ndata: [DONE]\r\n\r\n",
    b'data: {"odd": \n',
    b"",
)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_streams_that_end_otherwise_equal_a_direct_call(desk, ending: bytes):
    desk.engine.script = replace(CHAT_STREAM, pieces=(*CHAT_STREAM.pieces[:3], ending or b"\n"))
    ask = next(one for one in ASKS if one.script is CHAT_STREAM)
    await require_same(desk, ask, ask.body)


@pytest.mark.parametrize("ask", STREAMS, ids=lambda ask: ask.name)
async def test_a_broken_stream_breaks_there_as_here(desk, ask: Ask):
    """What came before the break is the same, and neither client can take it for a whole answer."""
    desk.engine.script = replace(ask.script, pieces=ask.script.pieces[:3], broken=True)
    answer = await require_same(desk, ask, ask.body)
    assert not answer.complete


@pytest.mark.parametrize(("engine", "ask"), SPOKEN, ids=lambda one: getattr(one, "name", one))
async def test_what_the_proxy_asks_it_passes_as_it_is(desk, ask: Ask, engine: str):
    """Per engine: the request as the proxy would send it is one that it changes no more."""
    configure(desk, engine=engine)
    desk.engine.script = ask.script
    members = {} if ask.content_type != JSON else json.loads(ask.body)
    if "stream_options" in members:
        members["stream_options"] = {"include_usage": False}
    await asked(desk.port, ask, json.dumps(members).encode() if members else ask.body)
    answer = await require_same(desk, ask, desk.engine.seen[0].body)
    assert answer.complete
    assert answer.body == ask.script.body


@pytest.mark.parametrize(
    "engine", [name for name, one in ENGINES.items() if one.stream_options_rejected]
)
async def test_an_engine_that_refuses_to_be_asked_answers_as_it_would_directly(desk, engine: str):
    """Then nothing was asked of it, and what it says of usage is its own."""
    refused = Script(pieces=(REFUSAL,), status=400)
    configure(desk, engine=engine)
    desk.engine.decide = lambda seen: refused if b"stream_options" in seen.body else CHAT_STREAM
    ask = next(one for one in ASKS if one.script is CHAT_STREAM)
    members = json.loads(ask.body)
    del members["stream_options"]
    for _ in range(2):  # the second time it is known to refuse
        answer = await require_same(desk, ask, json.dumps(members).encode())
        assert answer.body == CHAT_STREAM.body
