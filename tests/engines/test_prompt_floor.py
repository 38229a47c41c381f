"""Lower bounds of prompts that nobody counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.route import Route
from billing.engines.prompt_floor import (
    LEAST_LEARNED_TOKENS,
    WINDOW,
    PromptSize,
    Ratio,
    Ratios,
    learn_prompt,
    prompt_floor,
    prompt_size,
)
from billing.engines.read_request import InferenceRequest, read_request
from tests.strategies import PATIENT


def request(route: Route = Route.CHAT_COMPLETIONS, **members: object) -> InferenceRequest:
    return read_request(json.dumps({"model": "m", **members}).encode(), route)


def saying(*contents: Any) -> InferenceRequest:
    return request(messages=[{"role": "user", "content": content} for content in contents])


answers = st.tuples(st.integers(1, 100_000), st.integers(LEAST_LEARNED_TOKENS, 50_000))


@PATIENT
@given(st.lists(answers, max_size=2 * WINDOW), st.lists(answers, min_size=1, max_size=20))
def test_floor_never_exceeds_what_was_counted(before, judged):
    ratio = Ratio()
    for length, tokens in before:
        ratio.learn(length, tokens)
    for length, tokens in judged:
        ratio.learn(length, tokens)
    for length, tokens in judged:
        assert ratio.floor(length) <= max(tokens, length)
        if length >= tokens:
            assert ratio.floor(length) <= tokens


@PATIENT
@given(st.lists(answers, min_size=WINDOW, max_size=WINDOW))
def test_the_ratio_is_the_highest_of_the_window(learned):
    ratio = Ratio()
    for length, tokens in [(10**9, 100), *learned]:
        ratio.learn(length, tokens)
    highest = max(max(1000, -(-length * 1000 // tokens)) for length, tokens in learned)
    assert ratio.floor(10**6) == 10**9 // highest


def test_few_answers_are_not_enough_to_sink_the_ratio():
    ratio = Ratio()
    for _ in range(WINDOW - 1):
        ratio.learn(1_000, 1_000)
    assert ratio.floor(800) == 100
    ratio.learn(1_000, 1_000)
    assert ratio.floor(800) == 800


def test_templates_of_short_prompts_teach_nothing():
    ratio = Ratio()
    for _ in range(2 * WINDOW):
        ratio.learn(2, 20)
    assert ratio.floor(800) == 100


@pytest.mark.parametrize("length", [0, 8, 100, 5_000])
def test_the_floor_holds_for_a_model_of_one_byte_per_token(length):
    """The tiny model of the engine tests: a message of b bytes is b + 18 tokens."""
    ratio = Ratio()
    for _ in range(WINDOW):
        learn_prompt(saying("x" * 200), ratio, 218)
    floor = prompt_floor(saying("x" * length), ratio)
    assert floor == length <= length + 18


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (saying("hello"), PromptSize(5, 0, only_text=True)),
        (saying("hü\n"), PromptSize(4, 0, only_text=True)),
        (saying("a", "b" * 10), PromptSize(11, 0, only_text=True)),
        (
            saying([{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {}}]),
            PromptSize(3, 0, only_text=False),
        ),
        (saying(None), PromptSize(0, 0, only_text=False)),
        (request(messages="x", tools=[]), PromptSize(1, 0, only_text=False)),
        (request(messages=[{"content": 5}]), PromptSize(0, 0, only_text=False)),
        (request(prompt="abcd"), PromptSize(4, 0, only_text=True)),
        (request(prompt=["ab", "cd"]), PromptSize(4, 0, only_text=True)),
        (request(prompt=[5, 6, 7]), PromptSize(0, 3, only_text=False)),
        (request(prompt=[[5, 6], [7]]), PromptSize(0, 3, only_text=False)),
        (request(prompt="abcd", truncate_prompt_tokens=1), PromptSize(0, 0, only_text=False)),
        (request(Route.EMBEDDINGS, input="abcd"), PromptSize(0, 0, only_text=False)),
        (
            request(input=[{"content": [{"text": "abc"}]}], instructions="de"),
            PromptSize(5, 0, True),
        ),
    ],
)
def test_what_can_be_judged_by_its_length(asked, size):
    assert prompt_size(asked) == size


def test_escapes_and_blanks_of_the_body_are_no_prompt():
    body = b'{"model":"m","messages":[  {"role" : "user",\n\n"content":"\\u00fc\\n\\u4f60"}  ]}'
    size = prompt_size(read_request(body, Route.CHAT_COMPLETIONS))
    assert size.text_bytes == len("ü\n你".encode())


def test_pictures_teach_nothing():
    ratio = Ratio()
    picture = [{"type": "text", "text": "x" * 80}, {"type": "image_url", "image_url": {}}]
    for _ in range(WINDOW):
        learn_prompt(saying(picture), ratio, 1_000)
    assert ratio.floor(800) == 100


def test_ratios_are_apart_and_bounded():
    ratios = Ratios()
    for _ in range(WINDOW):
        ratios.of("b1", 1).learn(1_000, 1_000)
    assert (ratios.of("b1", 1).floor(8), ratios.of("b2", 1).floor(8)) == (8, 1)
    for model in range(5_000):
        ratios.of("b3", model)
    assert ratios.of("b1", 1).floor(8) == 1
