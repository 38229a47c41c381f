"""An engine that costs next to nothing: fixed bytes, for benchmarks.

`main(port, pace_ms, first_ms, chunks)`.

A request with `"stream":true` gets a stream, any other a whole answer. It looks for no more.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import uvloop

CHUNKS = 100
WRITES = 10
ENDING = 3  # last chunk, usage, end: at once
PROMPT = 42


def _chunk(body: dict[str, object]) -> bytes:
    event = b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _events(chunks: int) -> list[bytes]:
    head = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "tiny",
    }
    events = []
    for number in range(1, chunks + 1):
        choice = {"index": 0, "delta": {"content": " word"}, "logprobs": None}
        usage = {
            "prompt_tokens": PROMPT,
            "total_tokens": PROMPT + number,
            "completion_tokens": number,
        }
        choice["finish_reason"] = "length" if number == chunks else None
        events.append(_chunk({**head, "choices": [choice], "usage": usage}))
    usage = {"prompt_tokens": PROMPT, "total_tokens": PROMPT + chunks, "completion_tokens": chunks}
    events.append(_chunk({**head, "choices": [], "usage": usage}))
    events.append(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    return events


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "some words " * 36},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": PROMPT, "completion_tokens": 72, "total_tokens": PROMPT + 72},
    }
).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


class _Connection(asyncio.Protocol):
    def __init__(self, pace_ms: int, first_ms: int, events: list[bytes]) -> None:
        self._pace = pace_ms / 1000
        self._first = first_ms / 1000
        self._events = events
        self._buffer = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        if self._first:
            self._loop.call_later(self._first, self._answer, b'"stream":true' in body)
        else:
            self._answer(b'"stream":true' in body)

    def _answer(self, stream: bool) -> None:
        if not stream:
            self._transport.write(WHOLE)
        elif self._pace:
            self._transport.write(STREAM_HEAD)
            self._next(0)
        else:
            self._transport.write(STREAM_HEAD)
            size = -(-len(self._events) // WRITES)
            for start in range(0, len(self._events), size):
                self._transport.write(b"".join(self._events[start : start + size]))

    def _next(self, number: int) -> None:
        if self._transport.is_closing():
            return
        if number >= len(self._events) - ENDING:
            self._transport.write(b"".join(self._events[number:]))
        else:
            self._transport.write(self._events[number])
            self._loop.call_later(self._pace, self._next, number + 1)


async def _serve(port: int, pace_ms: int, first_ms: int, chunks: int) -> None:
    loop, events = asyncio.get_running_loop(), _events(chunks)
    server = await loop.create_server(
        lambda: _Connection(pace_ms, first_ms, events), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


def main(port: int, pace_ms: int = 0, first_ms: int = 0, chunks: int = CHUNKS) -> None:
    """Serve until killed; `first_ms` is how long it thinks before an answer begins."""
    uvloop.run(_serve(port, pace_ms, first_ms, chunks))
