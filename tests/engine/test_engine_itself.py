"""What the engine says of its own tokens, before the proxy stands in front of it.

These facts are what the test through the proxy relies on; if an engine release changes them, this
file fails first and says so.
"""

from __future__ import annotations

import json

import httpx
import pytest

from tests.engine.server import Engine

pytestmark = pytest.mark.engine

TEMPLATE_TOKENS = len("user: \nassistant: ")


def chat(engine: Engine, content: str, max_tokens: int, **more: object) -> httpx.Response:
    body = {
        "model": engine.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        **more,
    }
    return httpx.post(f"{engine.base_url}/v1/chat/completions", json=body, timeout=60)


@pytest.mark.parametrize(("content", "max_tokens"), [("hi", 1), ("grüße", 7), ("x" * 300, 40)])
def test_one_byte_is_one_token_and_answers_run_to_max_tokens(engine, content, max_tokens):
    usage = chat(engine, content, max_tokens).json()["usage"]
    prompt = len(content.encode()) + TEMPLATE_TOKENS
    assert usage == {
        "prompt_tokens": prompt,
        "completion_tokens": max_tokens,
        "total_tokens": prompt + max_tokens,
    }


def test_stream_carries_usage_on_the_finish_chunk_and_ends_without_done(engine):
    answer = chat(engine, "hi there", 6, stream=True)
    events = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert "[DONE]" not in events
    chunks = [json.loads(event) for event in events]
    assert [("usage" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    last = chunks[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 6


def test_only_the_model_folder_is_a_known_name(engine):
    answer = httpx.post(
        f"{engine.base_url}/v1/completions",
        json={"model": "tiny", "prompt": "hi", "max_tokens": 1},
        timeout=60,
    )
    assert answer.status_code == 400
