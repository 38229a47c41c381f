"""What an engine answers to the official clients, in each of the protocols that they speak."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.api.proxy.endpoints.asks import (
    MESSAGE,
    OF_CHAT,
    OF_MESSAGES,
    counted,
    events,
    response,
    whole,
)
from tests.fake_engine.scripted import Script

LONG = 3_000
"""Tokens of the answers that nobody reads to their end."""
STREAM = "text/event-stream"


def chunk(choices: list[object], usage: object) -> bytes:
    kind = {"object": "chat.completion.chunk", "id": "c", "created": 1, "model": "text"}
    return f"data: {json.dumps({**kind, 'choices': choices, 'usage': usage})}\n\n".encode()


def _called(arguments: str, *, begins: bool = False) -> list[object]:
    function = {"name": "weather", "arguments": ""} if begins else {"arguments": arguments}
    call = {"index": 0, "function": function}
    if begins:
        call |= {"id": "call_1", "type": "function"}
    role = {"role": "assistant"} if begins else {}
    return [{"index": 0, "delta": {**role, "tool_calls": [call]}}]


def _said(text: str) -> list[object]:
    return [{"index": 0, "delta": {"content": text}}]


def _stream(*pieces: bytes, finish: str) -> Script:
    end = chunk([{"index": 0, "delta": {}, "finish_reason": finish}], counted(5))
    done = (end, chunk([], OF_CHAT), b"data: [DONE]\n\n")
    return Script(pieces=(*pieces, *done), chunked=True, content_type=STREAM)


def chat(content: str) -> Script:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    kind = {"id": "c", "object": "chat.completion", "created": 1, "model": "text"}
    return whole({**kind, "choices": [choice], "usage": OF_CHAT})


CHAT_STREAM = _stream(*(chunk(_said(f" {n}"), counted(n + 1)) for n in range(5)), finish="stop")
TOOL_STREAM = _stream(
    chunk(_called("", begins=True), counted(1)),
    *(chunk(_called(part), counted(5)) for part in ('{"city":', '"Köln"}')),
    finish="tool_calls",
)
LONG_STREAM = Script(
    pieces=tuple(chunk(_said(" w"), counted(n)) for n in range(1, LONG)),
    chunked=True,
    content_type=STREAM,
)

EMBEDDED = whole(
    {
        "object": "list",
        "model": "embed",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, -2]}],
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    }
)
# Two 32-bit numbers, as a client gets them that asks for base64.
EMBEDDED_BASE64 = whole(
    {
        "object": "list",
        "model": "embed",
        "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAAMA="}],
        "usage": {"prompt_tokens": 11, "total_tokens": 11},
    }
)

RESPONSE = whole(response("completed"))
_PART = {"type": "output_text", "text": "", "annotations": []}
_ITEM = {"id": "m", "type": "message", "role": "assistant", "status": "in_progress"}
_PLACE = {"item_id": "m", "output_index": 0}
RESPONSE_STREAM = events(
    ("response.created", {"response": response("in_progress", None)}),
    ("response.output_item.added", {"output_index": 0, "item": {**_ITEM, "content": []}}),
    ("response.content_part.added", {**_PLACE, "content_index": 0, "part": _PART}),
    *(
        ("response.output_text.delta", {**_PLACE, "content_index": 0, "delta": f" {n}"})
        for n in range(5)
    ),
    (
        "response.output_item.done",
        {"output_index": 0, "item": {**_ITEM, "status": "completed", "content": [_PART]}},
    ),
    ("response.completed", {"response": response("completed")}),
)

MESSAGE_WHOLE = whole({**MESSAGE, "model": "text", "usage": OF_MESSAGES})
_BEGIN = (
    "message_start",
    {"message": {**MESSAGE, "model": "text", "content": [], "usage": OF_MESSAGES}},
)


def _block(content: Mapping[str, object], *deltas: Mapping[str, object], reason: str) -> Script:
    return events(
        _BEGIN,
        ("content_block_start", {"index": 0, "content_block": content}),
        *(("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": reason}, "usage": {"output_tokens": 5}}),
        ("message_stop", {}),
    )


def _texts(*texts: str) -> Script:
    deltas = ({"type": "text_delta", "text": text} for text in texts)
    return _block({"type": "text", "text": ""}, *deltas, reason="end_turn")


MESSAGE_STREAM = _texts(*(f" {n}" for n in range(5)))
MESSAGE_TOOL_STREAM = _block(
    {"type": "tool_use", "id": "t1", "name": "weather", "input": {}},
    *({"type": "input_json_delta", "partial_json": part} for part in ('{"city":', '"Köln"}')),
    reason="tool_use",
)
MESSAGE_LONG_STREAM = _texts(*(" w",) * LONG)
COUNTED = whole({"input_tokens": 14})

TOO_LONG = {"type": "invalid_request_error", "message": "too long", "param": None, "code": None}
REFUSED = Script(
    pieces=(json.dumps({"type": "error", "error": TOO_LONG}).encode(),),
    status=400,
)
"""In a shape that the clients of both protocols understand."""
SLOW = Script(pieces=(b" ",) * 5_000, chunked=True)
"""Seconds of white space before an answer."""


def failed(status: int) -> Script:
    error = {"type": "server_error", "message": "not now", "param": None, "code": None}
    return Script(pieces=(json.dumps({"type": "error", "error": error}).encode(),), status=status)
