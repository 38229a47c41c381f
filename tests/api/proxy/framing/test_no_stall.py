"""A long prompt keeps no stream of another client waiting.

All streams of a process share one event loop, so each is delayed by whatever runs longest on it
in one piece. That is measured as CPU time of the thread: it is the same on a busy machine.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.proxy.conftest import Yard

PROMPT_BYTES = 200_000
LONGEST_MS = 20
REPEATS = 3
"""What the prompt itself needs, it needs every time; the rest is the machine."""
WORDS = "Tell me what a steelyard weighs, and for whom. "


def content(text: Any) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


def filled(piece: Any) -> list[Any]:
    return [piece] * (PROMPT_BYTES // len(json.dumps(piece)))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(depth):
        schema = {"type": "object", "properties": {f"level_{level}": schema}}
    return schema


TOOL = {"type": "function", "function": {"name": "weigh", "parameters": nested(40)}}
TURN = {"role": "assistant", "content": "So it is."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO" * 50_000}}
PROMPTS = {
    "one text": content(WORDS * (PROMPT_BYTES // len(WORDS))),
    "escaped text": content('"\\\n' * (PROMPT_BYTES // 6)),
    "text of other scripts": content("秤" * (PROMPT_BYTES // 6)),
    "words like members": content('"url": "http://x", "n": 2, ' * (PROMPT_BYTES // 35)),
    "many turns": {"messages": filled(TURN)},
    "many parts": content(filled({"type": "text", "text": "weigh"})),
    "many tools": {"messages": [TURN], "tools": filled(TOOL)},
    "a picture": content([PICTURE]),
}


@contextmanager
def longest_turn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """CPU µs of whatever runs in one piece on the loop; the longest is first at the end."""
    turns: list[int] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        begun = time.thread_time_ns()
        run(handle)
        turns.append((time.thread_time_ns() - begun) // 1000)

    gc.disable()  # the tests before this one have left more than a proxy ever has
    try:
        with monkeypatch.context() as patch:
            patch.setattr(asyncio.Handle, "_run", timed)
            yield turns
    finally:
        gc.enable()
    turns.sort(reverse=True)


@pytest.mark.parametrize("prompt", PROMPTS)
async def test_a_long_prompt_delays_no_other_stream(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    body = json.dumps({"model": "tiny", **PROMPTS[prompt]}).encode()
    assert len(body) > PROMPT_BYTES * 0.9
    await yard.chat()
    stream = await yard.stream()
    await stream.until(b"\r\n\r\n")
    longest: list[int] = []
    for _ in range(REPEATS):
        asking = await yard.raw()
        with longest_turn(monkeypatch) as turns:
            await asking.post(body)
            answer = await asking.until(b"\r\n\r\n")
            await yard.settled()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        longest.append(turns[0])
    assert min(longest) < LONGEST_MS * 1000
