"""What each inference engine can do that matters to a meter.

Decides: per engine, which protocols it speaks, whether a stream can be asked for usage, whether it
can report counts as it goes, how it ends, and which request members it takes. Does not decide
where an engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from billing.admission.route import Dialect
from billing.engines.request_members import COMMON_SAMPLING, LLAMA_CPP, SGLANG, VLLM
from billing.errors import ConfigurationError

_ALL = frozenset({Dialect.CHUNKS, Dialect.RESPONSES, Dialect.MESSAGES})
_OPENAI = frozenset({Dialect.CHUNKS, Dialect.RESPONSES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Traits of one engine.

    Attributes:
        seen: the version that they were read or tried from, and where.
        dialects: protocols of generated text that it speaks.
        include_usage: takes `stream_options.include_usage`; without it usage comes by itself or
            not at all.
        continuous_usage: also takes `continuous_usage_stats`, so that a stream that is cut is
            billed by the engine's own counts.
        counts_per_choice: its continuous counts are of the chunk's choice, not of the request,
            so that `n` choices are summed.
        totals_per_prompt: a completion of several prompts has a total behind each of them.
        done_marker: every complete stream ends with `[DONE]`. Where it may not, the event that
            carries a finish_reason is held until the next one comes or the body ends, because
            a client may take it for the end.
        stream_options_rejected: some builds of it, or gateways before it, answer 400 to the
            member that asks for usage: then it is asked again without.
        max_tokens_member: how chat completions bound the answer.
        answers_tier: its answers name the service tier that served them, which may not be the one
            that was asked for. Of others it is never read.
        cache_salt: takes a `cache_salt` that keeps prefix caches apart.
        media_by_name: takes addresses of media in members that are not called `…url`.
        template_keys: members of `chat_template_kwargs` that pass; others could change what the
            template puts into the prompt.
        request_members: top-level members that it takes beyond those OpenAI documents.
    """

    engine: str
    seen: str
    dialects: frozenset[Dialect] = _ALL
    include_usage: bool = True
    continuous_usage: bool = False
    counts_per_choice: bool = False
    totals_per_prompt: bool = False
    done_marker: bool = True
    stream_options_rejected: bool = False
    max_tokens_member: str = "max_tokens"
    answers_tier: bool = False
    cache_salt: bool = False
    media_by_name: bool = False
    template_keys: frozenset[str] = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
    request_members: frozenset[str] = COMMON_SAMPLING

    @property
    def unasked(self) -> Capabilities:
        """The same engine, known to refuse the member that asks for usage."""
        return replace(self, include_usage=False, continuous_usage=False)


ENGINES = {
    known.engine: known
    for known in (
        # Nothing is known of a generic server, so nothing is asked of it that OpenAI's own API
        # would refuse, and its streams may end either way.
        Capabilities(
            engine="generic",
            seen="OpenAI's API reference, 2026-11",
            done_marker=False,
            stream_options_rejected=True,
            answers_tier=True,
            media_by_name=True,
        ),
        Capabilities(
            engine="simulated",
            seen="this repository",
            continuous_usage=True,
            counts_per_choice=True,
        ),
        Capabilities(
            engine="vllm",
            seen="0.32, entrypoints/openai/chat_completion/serving.py",
            continuous_usage=True,
            counts_per_choice=True,
            cache_salt=True,
            request_members=COMMON_SAMPLING | VLLM,
        ),
        Capabilities(
            engine="nim",
            seen="2.0, API reference; vLLM inside",
            continuous_usage=True,
            counts_per_choice=True,
            cache_salt=True,
            request_members=COMMON_SAMPLING | VLLM,
        ),
        # Reasoning stands at the top of usage, cached tokens are null when there are none, and
        # its gateway (not the engine) answers 400 to options that it does not know.
        Capabilities(
            engine="sglang",
            seen="0.5, srt/entrypoints/openai/usage_processor.py",
            continuous_usage=True,
            counts_per_choice=True,
            stream_options_rejected=True,
            cache_salt=True,
            request_members=COMMON_SAMPLING | SGLANG,
        ),
        # Its request model forbids extra members and says so itself (400). Counts: as
        # serve/postprocess_handlers.py writes them.
        Capabilities(
            engine="tensorrt_llm",
            seen="1.1, serve/openai_protocol.py",
            dialects=_OPENAI,
            continuous_usage=True,
            counts_per_choice=True,
            totals_per_prompt=True,
        ),
        # Continuous counts depend on the worker behind the frontend. With
        # DYN_ENABLE_FORCE_INCLUDE_USAGE it reports whatever is asked; some builds put usage on
        # every event of /v1/messages.
        Capabilities(
            engine="dynamo",
            seen="0.8, frontend",
            stream_options_rejected=True,
            request_members=COMMON_SAMPLING | VLLM,
        ),
        # Builds before 2025-09 report usage on the last chunk whatever is asked.
        Capabilities(
            engine="llama_cpp",
            seen="b7000, tools/server",
            stream_options_rejected=True,
            request_members=COMMON_SAMPLING | LLAMA_CPP,
        ),
        # Usage rides on the finish_reason chunk whatever is asked, the stream ends without
        # [DONE], and any member that OpenAI does not document is refused (422).
        Capabilities(
            engine="transformers",
            seen="5.23.0, tried on the wire",
            dialects=_OPENAI,
            include_usage=False,
            done_marker=False,
            media_by_name=True,
            request_members=frozenset(),
        ),
        Capabilities(
            engine="openai",
            seen="API reference, 2026-11",
            dialects=_OPENAI,
            max_tokens_member="max_completion_tokens",
            answers_tier=True,
            request_members=frozenset(),
        ),
        Capabilities(
            engine="anthropic",
            seen="API version 2023-06-01, reference of 2026-11",
            dialects=frozenset({Dialect.MESSAGES}),
            include_usage=False,
            answers_tier=True,
            request_members=frozenset(),
        ),
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
