"""Engines' own totals, as their pages tell them."""

from __future__ import annotations

import pytest

from billing.engines.capabilities import ENGINES
from billing.engines.counters import COUNTER_NAMES, EngineCounters, parse_counters
from billing.errors import UpstreamError

VLLM = """# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.0e+06
vllm:prompt_tokens_total{engine="1",model_name="tiny"} 7.0
# TYPE vllm:prompt_tokens_created gauge
vllm:prompt_tokens_created{engine="0",model_name="tiny"} 1.7637e+09
# TYPE vllm:prompt_tokens_cached_total counter
vllm:prompt_tokens_cached_total{engine="0",model_name="tiny"} 5.0
vllm:generation_tokens_total{engine="0",model_name="tiny"} 41.0
vllm:generation_tokens_total{engine="1",model_name="ti}ny \\"x\\""} 1.0
vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="tiny"} 3.0
"""


def test_ranks_and_models_of_an_engine_are_summed():
    assert parse_counters(VLLM, engine="vllm") == EngineCounters(
        prompt=1_000_007, generation=42, counts_cached=True
    )


@pytest.mark.parametrize(
    ("engine", "page", "counts_cached"),
    [
        ("generic", "vllm:prompt_tokens_total 3\nvllm:generation_tokens_total 4\n", True),
        ("sglang", "sglang:prompt_tokens_total 3\nsglang:generation_tokens_total 4\n", True),
        ("tensorrt_llm", "trtllm_prompt_tokens_total 3\ntrtllm_generation_tokens_total 4\n", True),
        ("nim", "prompt_tokens_total 3\ngeneration_tokens_total 4\n", True),
        ("nim", "vllm:prompt_tokens_total 3\nvllm:generation_tokens_total 4\n", True),
        (
            "dynamo",
            "dynamo_frontend_input_sequence_tokens_sum 3\ndynamo_frontend_output_tokens_total 4\n",
            True,
        ),
        (
            "llama_cpp",
            "llamacpp:prompt_tokens_total 3\nllamacpp:tokens_predicted_total 4\n",
            False,
        ),
    ],
)
def test_each_engine_tells_its_totals(engine, page, counts_cached):
    assert parse_counters(page, engine=engine) == EngineCounters(
        prompt=3, generation=4, counts_cached=counts_cached
    )


def test_a_line_that_no_parser_likes_hides_nothing():
    page = "this is { no metric\n" + VLLM + 'half{a="\n'
    assert parse_counters(page, engine="vllm").generation == 42


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "1e300", "12x", ""])
def test_what_is_no_number_of_tokens_is_refused(value):
    page = f"vllm:prompt_tokens_total {value}\nvllm:generation_tokens_total 4\n"
    with pytest.raises(UpstreamError):
        parse_counters(page, engine="vllm")


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_a_page_without_totals_is_refused(engine):
    page = "vllm:prompt_tokens_total 3\n" if engine == "vllm" else VLLM
    with pytest.raises(UpstreamError, match="no token counters"):
        parse_counters(page, engine=engine)


def test_only_engines_that_exist_have_names():
    assert set(COUNTER_NAMES) < set(ENGINES)
