"""What engines say that they counted: the token counters of their `/metrics` pages.

Decides: which engine tells its totals under which names, and what they contain. Decides nothing
about when a page is read, and nothing about what the difference to the ledger means.

Names are those of vLLM 0.32, SGLang, TensorRT-LLM 1.1, NIM 2.0, Dynamo and llama.cpp, 2026-11. An
engine of several ranks tells one figure per rank and model: their sum is the engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from billing.errors import UpstreamError

COUNTER_MAX = 2**53
"""Pages carry binary floats: up to here each integer is told apart from the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterNames:
    """Under which names an engine tells its totals.

    Attributes:
        counts_cached: prompt tokens that came from a prefix cache are in the total.
    """

    prompt: str
    generation: str
    counts_cached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """An engine's totals since it started, in tokens."""

    prompt: int
    generation: int
    counts_cached: bool


_VLLM = CounterNames(prompt="vllm:prompt_tokens_total", generation="vllm:generation_tokens_total")
_SGLANG = CounterNames(
    prompt="sglang:prompt_tokens_total", generation="sglang:generation_tokens_total"
)
_TENSORRT = CounterNames(
    prompt="trtllm_prompt_tokens_total", generation="trtllm_generation_tokens_total"
)
_NIM = CounterNames(prompt="prompt_tokens_total", generation="generation_tokens_total")
_DYNAMO = CounterNames(
    prompt="dynamo_frontend_input_sequence_tokens_sum",
    generation="dynamo_frontend_output_tokens_total",
)
_LLAMA_CPP = CounterNames(
    prompt="llamacpp:prompt_tokens_total",
    generation="llamacpp:tokens_predicted_total",
    counts_cached=False,
)

COUNTER_NAMES: Mapping[str, tuple[CounterNames, ...]] = {
    "vllm": (_VLLM,),
    "sglang": (_SGLANG,),
    "tensorrt_llm": (_TENSORRT,),
    "nim": (_VLLM, _NIM),
    "dynamo": (_DYNAMO,),
    "llama_cpp": (_LLAMA_CPP,),
    "simulated": (_VLLM,),
    "generic": (_VLLM, _SGLANG, _TENSORRT, _DYNAMO, _LLAMA_CPP),
}
"""By engine, in the order in which they are looked for; one that is not here tells nothing."""


def parse_counters(page: str, *, engine: str) -> EngineCounters:
    """The totals on a page of Prometheus text.

    Raises:
        UpstreamError: the page has no totals of this engine, or no figures where they should be.
    """
    choices = COUNTER_NAMES.get(engine, ())
    totals = _totals(page, {name for each in choices for name in (each.prompt, each.generation)})
    for names in choices:
        if names.prompt in totals and names.generation in totals:
            return EngineCounters(
                prompt=totals[names.prompt],
                generation=totals[names.generation],
                counts_cached=names.counts_cached,
            )
    raise _unusable("no token counters of this engine")


def _totals(page: str, names: set[str]) -> dict[str, int]:
    """The sum over all label sets of each name that occurs."""
    # Only these lines are parsed: a page has hundreds of others, and one of them that no parser
    # likes must not hide the totals.
    lines = [line for line in page.split("\n") if line.partition("{")[0].split(" ")[0] in names]
    totals: dict[str, int] = {}
    try:
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0) + _tokens(sample.value)
    except (ValueError, OverflowError):
        raise _unusable("a counter that is no number of tokens") from None
    return totals


def _tokens(value: float) -> int:
    if not 0 <= value <= COUNTER_MAX:
        raise ValueError("not a number of tokens")
    return int(value)


def _unusable(what: str) -> UpstreamError:
    return UpstreamError(
        what, field="metrics_url", remedy="check metrics_url and engine in the backends file"
    )
