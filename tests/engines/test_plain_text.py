"""What is taken for text alone hides no name, however the name is spelled or repeated."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.engines.plain_text import is_text
from billing.engines.splice import locate
from tests.strategies import PATIENT

HARMLESS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "type", "text"}
HARMLESS |= {"reasoning_content", "function", "arguments", "id", "index"}


def member(value: str) -> bytes:
    """A body with these messages."""
    return f'{{"model":"tiny","messages":{value}}}'.encode()


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "see https://example.com and file_id"}],
        [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "look", "arguments": '{"url":"x"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ],
        "a string",
        None,
    ],
)
def test_conversations_of_text_are_known_as_such(messages: object) -> None:
    assert is_text(locate(member(json.dumps(messages))), ("messages",))


@pytest.mark.parametrize(
    "messages",
    [
        '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://x"}}]}]',
        '[{"role":"user","content":[{"type":"text","text":"a","image_\\u0075rl":"x"}]}]',
        '[{"role":"user","content":[{"file_id":"file-1"}],"content":"the last one counts"}]',
        '[{"role":"user","content":"a","audio":{"id":"x"}}]',
        '[{"role":"user","content":{"url":"x"}}]',
        '[[{"role":"user","content":"a"}]]',
        "7",
    ],
)
def test_whatever_else_there_is_has_to_be_searched(messages: str) -> None:
    assert not is_text(locate(member(messages)), ("messages",))


def test_members_that_are_not_there_say_nothing() -> None:
    assert is_text(locate(b'{"model":"tiny"}'), ("messages", "input"))


names = st.sampled_from([*sorted(HARMLESS), "file_id", "file_\\u0069d", "url", "image_url"])
texts = st.sampled_from(['"text"', '"user"', '"a"', "null", "1"])


def nested(depth: int) -> st.SearchStrategy[str]:
    if not depth:
        return texts
    inner = nested(depth - 1)
    pairs = st.tuples(names, inner).map(lambda pair: f'"{pair[0]}":{pair[1]}')
    objects = st.lists(pairs, max_size=4).map(lambda pairs: "{" + ",".join(pairs) + "}")
    return inner | objects | st.lists(inner, max_size=2).map(lambda each: f"[{','.join(each)}]")


@PATIENT
@given(nested(4), st.text(max_size=3))
def test_no_name_is_overlooked(message: str, text: str) -> None:
    first = json.dumps({"role": "user", "content": text})
    messages = f"[{first},{message}]"
    found: set[str] = set()

    def note(pairs: list[tuple[str, Any]]) -> None:
        found.update(name for name, _ in pairs)

    json.loads(messages, object_pairs_hook=note)
    if found - HARMLESS:
        assert not is_text(locate(member(messages)), ("messages",))
