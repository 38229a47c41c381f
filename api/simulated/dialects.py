"""Answers of the simulated engine as responses and as messages.

Decides: their shapes, whole and as streams. The counts are those of `arithmetic.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from api.simulated.arithmetic import Request, answer_words, prompt_tokens

CREATED = 1_700_000_000


def response(request: Request, number: int, cached: int, status: str) -> dict[str, Any]:
    """A response; before its end it has no output and no usage."""
    done = status == "completed"
    text = "".join(answer_words(request.answer_tokens))
    prompt = prompt_tokens(request)
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": request.answer_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + request.answer_tokens,
    }
    return {
        "id": f"resp_sim_{number}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": request.model,
        "output": [_item(number, text)] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def response_events(request: Request, number: int, cached: int) -> Iterator[bytes]:
    """The events of a streamed response; every delta is a token."""
    place = {"item_id": f"msg_sim_{number}", "output_index": 0, "content_index": 0}
    text = "".join(answer_words(request.answer_tokens))
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
    begun = {"response": response(request, number, cached, "in_progress")}
    item: dict[str, Any] = {**_item(number, ""), "status": "in_progress", "content": []}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("response.created", begun),
        ("response.in_progress", begun),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.content_part.added", {**place, "part": part}),
        *(
            ("response.output_text.delta", {**place, "delta": word, "logprobs": []})
            for word in answer_words(request.answer_tokens)
        ),
        ("response.output_text.done", {**place, "text": text, "logprobs": []}),
        ("response.content_part.done", {**place, "part": {**part, "text": text}}),
        ("response.output_item.done", {"output_index": 0, "item": _item(number, text)}),
        ("response.completed", {"response": response(request, number, cached, "completed")}),
    ]
    for sequence, (name, members) in enumerate(steps):
        yield _event(name, {"sequence_number": sequence, **members})


def message(request: Request, number: int, cached: int) -> dict[str, Any]:
    """A message. Its input tokens are those that no cache held."""
    text = "".join(answer_words(request.answer_tokens))
    return {
        **_message_head(request, number),
        "content": [{"type": "text", "text": text}],
        "stop_reason": "max_tokens",
        "usage": _message_usage(request, cached, request.answer_tokens),
    }


def message_events(request: Request, number: int, cached: int) -> Iterator[bytes]:
    """The events of a streamed message; every delta is a token, and counts are cumulative."""
    begun = {**_message_head(request, number), "usage": _message_usage(request, cached, 1)}
    block = {"type": "text", "text": ""}
    ended = {"stop_reason": "max_tokens", "stop_sequence": None}
    yield _event("message_start", {"message": begun})
    yield _event("content_block_start", {"index": 0, "content_block": block})
    for word in answer_words(request.answer_tokens):
        delta = {"type": "text_delta", "text": word}
        yield _event("content_block_delta", {"index": 0, "delta": delta})
    yield _event("content_block_stop", {"index": 0})
    usage = {"output_tokens": request.answer_tokens}
    yield _event("message_delta", {"delta": ended, "usage": usage})
    yield _event("message_stop", {})


def _item(number: int, text: str) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    return {
        "id": f"msg_sim_{number}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [content],
    }


def _message_head(request: Request, number: int) -> dict[str, Any]:
    return {
        "id": f"msg_sim_{number}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _message_usage(request: Request, cached: int, output: int) -> dict[str, int]:
    return {
        "input_tokens": prompt_tokens(request) - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": output,
    }


def _event(name: str, members: dict[str, Any]) -> bytes:
    content = msgspec.json.encode({"type": name, **members})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), content)
