"""Usage objects of the engines as disjoint classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.route import Route
from billing.engines.answer_usage import usage_of
from billing.engines.capabilities import engine_named
from billing.engines.read_request import read_request
from billing.engines.sse import read_event
from billing.engines.stream_meter import StreamMeter
from billing.engines.usage import (
    OF_MESSAGES,
    OF_RERANK,
    OF_RESPONSES,
    raw_figures,
    read_figures,
    read_named_figures,
    usual_figures,
)
from billing.metering.token_class import TokenCounts
from tests.strategies import PATIENT

counts = st.integers(0, 10**9)


def figures_of(usage: object, *, generates: bool = True) -> Any:
    return read_figures(json.dumps(usage).encode(), generates=generates)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # OpenAI: cached and reasoning are inside the totals.
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 20,
                "total_tokens": 120,
                "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 12},
            },
            TokenCounts(input=36, cached_input=64, output=20, reasoning=12),
        ),
        # vLLM without --enable-prompt-tokens-details.
        (
            {
                "prompt_tokens": 9,
                "total_tokens": 12,
                "completion_tokens": 3,
                "prompt_tokens_details": None,
            },
            TokenCounts(input=9, output=3),
        ),
        # SGLang: reasoning at the top.
        (
            {"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3, "reasoning_tokens": 2},
            TokenCounts(input=9, output=3, reasoning=2),
        ),
        # transformers serve 5.23.
        (
            {"completion_tokens": 6, "prompt_tokens": 26, "total_tokens": 32},
            TokenCounts(input=26, output=6),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 3},
            },
            TokenCounts(input=5, cached_input=2, cache_write=3, output=1),
        ),
    ],
)
def test_shapes(usage, expected):
    figures = figures_of(usage)
    assert figures.counts() == expected
    assert figures.complete
    assert figures.anomalies == ()


@PATIENT
@given(counts, counts, counts, counts, counts)
def test_classes_are_disjoint_and_sum_to_the_totals(prompt, cached, written, completion, reasoning):
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    figures = figures_of(usage)
    tokens = figures.counts()
    assert tokens.input + tokens.cached_input + tokens.cache_write == prompt
    assert tokens.output == completion
    assert min(tokens.input, tokens.cached_input, tokens.cache_write, tokens.reasoning) >= 0
    assert tokens.reasoning <= completion
    fits = cached + written <= prompt and reasoning <= completion
    assert (figures.anomalies == ()) is fits


def test_zero_null_and_absent():
    assert figures_of({"prompt_tokens": 0, "completion_tokens": 0}).complete
    assert not figures_of({"prompt_tokens": 1, "completion_tokens": None}).complete
    assert not figures_of({"prompt_tokens": 1}).complete
    assert figures_of({"prompt_tokens": 1}, generates=False).complete
    assert not figures_of({}, generates=False).complete


@pytest.mark.parametrize(
    "usage",
    [[], 5, "x", {"prompt_tokens": -1}, {"prompt_tokens": "1"}, {"prompt_tokens": 1 << 60}],
)
def test_what_cannot_be_trusted_is_none(usage):
    assert figures_of(usage) is None


def test_raw_keeps_whole_numbers_by_path_and_no_text():
    usage = {"a": 1, "b": {"c": 2, "t": "text", "f": 1.5, "flag": True}, "bad key!": 3, "l": [1]}
    assert raw_figures(json.dumps(usage).encode()) == {"a": 1, "b.c": 2}
    assert raw_figures(b"{") == {}
    assert len(raw_figures(json.dumps({f"k{n}": n for n in range(500)}).encode())) == 64


def test_usage_of_whole_answers():
    usage = usage_of(b'{"x":[{"usage":1}],"usage":{"a":1}}')
    assert usage is not None
    assert bytes(usage) == b'{"a":1}'
    for answer in (b'{"usage":null}', b"{}", b"[]", b"", b'{"usage":{'):
        assert usage_of(answer) is None


def meter_of(engine: str, *, n: int = 1) -> StreamMeter:
    body = json.dumps({"model": "m", "stream": True, "n": n}).encode()
    return StreamMeter(engine_named(engine), read_request(body, Route.CHAT_COMPLETIONS))


def chunk(index: int, completion: int | None, *, finish: str | None = None, text: str = "x"):
    body: dict[str, object] = {
        "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]
    }
    if completion is not None:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": completion}
    return read_event(b"data: " + json.dumps(body).encode() + b"\n\n")


@PATIENT
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 50)), max_size=30))
def test_continuous_counts_never_fall_and_sum_the_choices(steps):
    meter = meter_of("vllm", n=3)
    highest: dict[int, int] = {}
    before = 0
    for index, completion in steps:
        meter.observe(chunk(index, completion, text=""))
        highest[index] = max(highest.get(index, 0), completion)
        assert meter.mark.completion == sum(highest.values()) >= before
        before = meter.mark.completion
    assert not meter.exact


def test_engines_without_counts_per_choice_are_never_summed():
    meter = meter_of("dynamo", n=2)
    for index in (0, 1):
        meter.observe(chunk(index, 9))
    assert meter.mark.completion == 9


def test_usage_on_the_finish_chunk_is_exact_for_one_choice_only():
    for choices, exact in ((1, True), (2, False)):
        meter = meter_of("transformers", n=choices)
        meter.observe(chunk(0, None))
        meter.observe(chunk(0, 4, finish="stop", text=""))
        meter.conclude()
        assert meter.exact is exact
        assert meter.mark.completion == 4


def test_a_continuous_engines_finish_chunk_settles_only_at_the_end():
    meter = meter_of("vllm")
    meter.observe(chunk(0, 4, finish="stop"))
    assert not meter.exact  # cached tokens come with the last event
    meter.conclude()
    assert meter.exact


def test_unreadable_usage_falls_back_to_counted_events():
    meter = meter_of("generic")
    meter.observe(chunk(0, None))
    meter.observe(chunk(0, -5))
    assert meter.mark.completion == 2
    assert meter.anomalies == {"usage_unreadable"}


def usage_only(usage: dict[str, int]):
    return read_event(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")


@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        ({}, 0),
        ({"prompt_tokens": 7}, 7),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 0),
    ],
)
def test_last_usage_that_leaves_out_what_was_seen_takes_nothing_back(usage, prompt):
    meter = meter_of("generic")
    for _ in range(3):
        meter.observe(chunk(0, None))
    meter.observe(usage_only(usage))
    meter.conclude()
    assert (meter.mark.prompt, meter.mark.completion, meter.exact) == (prompt, 3, False)


def test_usage_said_before_the_last_content_is_not_the_whole_answers():
    meter = meter_of("generic")
    meter.observe(usage_only({"prompt_tokens": 7, "completion_tokens": 0}))
    assert meter.exact
    meter.observe(chunk(0, None))
    assert not meter.exact
    meter.observe(usage_only({"prompt_tokens": 7, "completion_tokens": 4}))
    assert (meter.mark.prompt, meter.mark.completion, meter.exact) == (7, 4, True)


GOOD = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@pytest.mark.parametrize(
    "details",
    [
        {"prompt_tokens_details": {"cached_tokens": "many"}},
        {"prompt_tokens_details": {"cached_tokens": 12.5}},
        {"prompt_tokens_details": {"cached_tokens": -3}},
        {"prompt_tokens_details": {"cached_tokens": 1 << 60}},
        {"prompt_tokens_details": [1]},
        {"prompt_tokens_details": "x"},
        {"completion_tokens_details": {"reasoning_tokens": True}},
        {"completion_tokens_details": None, "reasoning_tokens": "x"},
        {"total_tokens": "120"},
    ],
)
def test_a_malformed_detail_loses_only_itself(details):
    kept = {"completion_tokens_details": {"reasoning_tokens": 5}} | details
    figures = figures_of(GOOD | kept)
    assert (figures.prompt, figures.completion, figures.complete) == (100, 20, True)
    assert figures.cached == 0
    assert figures.anomalies == ("detail_unreadable",)
    assert figures.reasoning == (0 if "reasoning_tokens" in str(details) else 5)


def test_a_malformed_detail_beside_a_good_one():
    figures = figures_of(
        GOOD | {"prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": "x"}}
    )
    assert (figures.cached, figures.cache_write) == (64, 0)


@PATIENT
@given(counts, counts, counts, counts)
def test_messages_prompt_is_the_sum_of_its_three_parts(fresh, read, written, output):
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    figures = read_named_figures(json.dumps(usage).encode(), OF_MESSAGES, generates=True)
    assert figures is not None
    assert figures.counts() == TokenCounts(
        input=fresh, cached_input=read, cache_write=written, output=output
    )


def test_responses_input_includes_what_was_cached():
    usage = {
        "input_tokens": 50,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 6},
        "total_tokens": 58,
    }
    figures = read_named_figures(json.dumps(usage).encode(), OF_RESPONSES, generates=True)
    assert figures is not None
    assert figures.counts() == TokenCounts(
        input=15, cached_input=30, cache_write=5, output=8, reasoning=6
    )
    assert figures.complete


def test_a_total_alone_is_a_rerank_prompt():
    figures = read_named_figures(b'{"total_tokens":9}', OF_RERANK, generates=False)
    assert figures is not None
    assert (figures.prompt, figures.complete, figures.anomalies) == (9, True, ())


def test_lost_cache_figures_of_messages_leave_a_lower_bound():
    usage = b'{"input_tokens":9,"cache_read_input_tokens":"x","output_tokens":3}'
    figures = read_named_figures(usage, OF_MESSAGES, generates=True)
    assert figures is not None
    assert (figures.prompt, figures.complete) == (9, False)
    assert figures.anomalies == ("detail_unreadable",)


@pytest.mark.parametrize(
    ("usage", "usual"),
    [
        ({"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2}, True),
        (
            {
                "prompt_tokens": 3,
                "total_tokens": 5,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 1},
            },
            True,
        ),
        ({"prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 2}, False),
        ({"prompt_tokens": -3, "total_tokens": -1, "completion_tokens": 2}, False),
        ({"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2, "more": 1}, False),
        ({"prompt_tokens": 3, "total_tokens": None, "completion_tokens": 2}, False),
        (
            {
                "prompt_tokens": 3,
                "total_tokens": 5,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
            False,
        ),
    ],
)
def test_what_is_read_with_the_answer_is_what_is_read_one_by_one(usage, usual):
    answer = json.dumps({"id": "a", "usage": usage}).encode()
    found = usual_figures(answer)
    assert (found is not None) == usual
    if found is not None:
        raw = usage_of(answer)
        assert raw is not None
        assert found == (read_figures(raw, generates=True), raw_figures(raw))
