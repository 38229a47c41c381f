"""What each inference engine can do that matters to a meter.

Decides: per engine, whether a stream can be asked for usage, whether it can report counts as it
goes, how it ends, and which request members it takes. Does not decide where an engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from billing.engines.request_members import COMMON_SAMPLING, LLAMA_CPP, SGLANG, VLLM
from billing.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Traits of one engine.

    Attributes:
        include_usage: takes `stream_options.include_usage`; without it usage comes by itself or
            not at all.
        continuous_usage: also takes `continuous_usage_stats`, so that a stream that is cut is
            billed by the engine's own counts.
        counts_per_choice: its continuous counts are of the chunk's choice, not of the request,
            so that `n` choices are summed.
        done_marker: every complete stream ends with `[DONE]`. Where it may not, the event that
            carries a finish_reason is held until the next one comes or the body ends, because
            a client may take it for the end.
        request_members: top-level members that it takes beyond those OpenAI documents.
    """

    engine: str
    include_usage: bool = True
    continuous_usage: bool = False
    counts_per_choice: bool = False
    done_marker: bool = True
    request_members: frozenset[str] = COMMON_SAMPLING


ENGINES = {
    known.engine: known
    for known in (
        # Nothing is known of a generic server, so nothing is asked of it that OpenAI's own API
        # would refuse, and its streams may end either way.
        Capabilities(engine="generic", done_marker=False),
        Capabilities(engine="simulated", continuous_usage=True, counts_per_choice=True),
        Capabilities(
            engine="vllm",
            continuous_usage=True,
            counts_per_choice=True,
            request_members=COMMON_SAMPLING | VLLM,
        ),
        Capabilities(
            engine="nim",
            continuous_usage=True,
            counts_per_choice=True,
            request_members=COMMON_SAMPLING | VLLM,
        ),
        Capabilities(
            engine="sglang",
            continuous_usage=True,
            counts_per_choice=True,
            request_members=COMMON_SAMPLING | SGLANG,
        ),
        # Its request model forbids extra members and says so itself (400).
        Capabilities(engine="tensorrt_llm", continuous_usage=True),
        # Continuous counts depend on the worker behind the frontend.
        Capabilities(engine="dynamo", request_members=COMMON_SAMPLING | VLLM),
        Capabilities(engine="llama_cpp", request_members=COMMON_SAMPLING | LLAMA_CPP),
        # Seen with 5.23: usage rides on the finish_reason chunk whatever is asked, the stream
        # ends without [DONE], and any member that OpenAI does not document is refused (422).
        Capabilities(
            engine="transformers",
            include_usage=False,
            done_marker=False,
            request_members=frozenset(),
        ),
        Capabilities(engine="openai", request_members=frozenset()),
    )
}

ENGINE_NAMES: tuple[str, ...] = tuple(ENGINES)


def engine_named(name: str) -> Capabilities:
    """The traits of an engine.

    Raises:
        ConfigurationError: no adapter has that name.
    """
    try:
        return ENGINES[name]
    except KeyError:
        raise ConfigurationError(
            "There is no adapter for this inference engine.",
            field="engine",
            remedy=f"Use one of: {', '.join(ENGINE_NAMES)}.",
        ) from None
