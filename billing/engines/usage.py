"""Token counts out of the usage objects of the engines, as disjoint classes.

Decides: which figure of which engine means what. OpenAI's prompt tokens include the cached ones
and its completion tokens the reasoning ones; Anthropic's input tokens exclude what was read from
or written to a cache; SGLang puts reasoning at the top; some engines leave the details out. Zero,
null and absent are three values: an explicit zero is a count, the other two mean that the engine
did not say. A detail that cannot be read loses itself, never the counts beside it.

Does not decide prices, nor what is billed when a stream is cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from billing.engines.answer_usage import Figure, Timings, tier_named
from billing.metering.token_class import TokenCounts

MAX_RAW_FIGURES = 64
MAX_DEPTH = 3
MAX_COUNT = 1 << 53
_SAFE_KEY = re.compile(r"[A-Za-z0-9_.-]{1,96}\Z")
_USUAL_PATHS = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


class _PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: Figure = UNSET
    cache_write_tokens: Figure = UNSET
    cache_creation_tokens: Figure = UNSET


class _CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: Figure = UNSET


class _UsageObject(msgspec.Struct, frozen=True):
    prompt_tokens: Figure = UNSET
    completion_tokens: Figure = UNSET
    total_tokens: Figure = UNSET
    reasoning_tokens: Figure = UNSET
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    timings: Timings | None = None


_DECODER = msgspec.json.Decoder(_UsageObject)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
# Servers whose language has one kind of number only write 12 as 12.0.
_WHOLE = re.compile(rb"([0-9]{1,16})(?:\.0+)?\Z")
_ANY = msgspec.json.Decoder(strict=True)
_NO_PROMPT_DETAILS = _PromptDetails()
_NO_COMPLETION_DETAILS = _CompletionDetails()
_NO_TIMINGS = Timings()


class Figures(msgspec.Struct):
    """What one usage object says, still overlapping as engines report it.

    Attributes:
        prompt: prompt tokens, cached ones included.
        cached: the part of them read from a cache; 0 where the engine did not say.
        cache_write: the part of them written to a priced cache.
        completion: generated tokens, reasoning included.
        reasoning: the part of them spent on reasoning.
        complete: the engine gave every figure that the route needs.
        prompt_said, completion_said: it gave that count; only kept where figures come apart.
        anomalies: what was wrong with the object, as stable words.
        tier: the service tier that is named with them; '' for none, or where none was looked for.
    """

    prompt: int
    cached: int
    cache_write: int
    completion: int
    reasoning: int
    complete: bool
    anomalies: tuple[str, ...] = ()
    prompt_said: bool = True
    completion_said: bool = True
    tier: str = ""

    def counts(self) -> TokenCounts:
        """The figures as disjoint classes; their sum is prompt + completion."""
        return TokenCounts(
            input=self.prompt - self.cached - self.cache_write,
            cached_input=self.cached,
            cache_write=self.cache_write,
            output=self.completion,
            reasoning=self.reasoning,
        )


class _Cached(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cached_tokens: int


class _UsualUsage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: None = None


class _UsualAnswer(msgspec.Struct, frozen=True):
    usage: _UsualUsage
    timings: msgspec.Raw | UnsetType = UNSET
    service_tier: msgspec.Raw = msgspec.Raw(b"")


_USUAL_ANSWER = msgspec.json.Decoder(_UsualAnswer)


def usual_figures(answer: bytes, *, tiered: bool = False) -> tuple[Figures, dict[str, int]] | None:
    """The figures of a whole answer, read with the answer, and as `raw_figures` gives them.

    Args:
        tiered: the service tier is looked for beside them.

    Returns:
        None unless its usage object has the usual members and they add up: what anything else
        means is to be read from it one by one, at three times the cost.
    """
    try:
        usual = _USUAL_ANSWER.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage = usual.usage
    if usage.prompt_tokens_details is None and usual.timings is not UNSET:
        return None
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    details = usage.prompt_tokens_details
    cached = 0 if details is None else details.cached_tokens
    if not (0 <= cached <= prompt and completion >= 0 and prompt + completion == total):
        return None
    if total > MAX_COUNT:
        return None
    raw = {"prompt_tokens": prompt, "total_tokens": total, "completion_tokens": completion}
    if details is not None:
        raw["prompt_tokens_details.cached_tokens"] = cached
    figures = Figures(prompt, cached, 0, completion, 0, complete=True)
    if tiered:
        figures.tier = tier_named(usual.service_tier)
    return figures, raw


def read_figures(raw: bytes | msgspec.Raw, *, generates: bool) -> Figures | None:
    """Read a usage object of chat completions, completions or embeddings.

    Args:
        raw: its JSON text.
        generates: whether the route yields generated tokens; if not, their absence is a zero.

    Returns:
        None where the text is no usage object that can be trusted (another type, a negative or
        absurd count); the caller then bills by what it saw and flags it.
    """
    try:
        usage = _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return read_named_figures(raw, OF_CHUNKS, generates=generates)
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if (
        usage.prompt_tokens_details is None
        and usage.completion_tokens_details is None
        and usage.timings is None
        and usage.reasoning_tokens is UNSET
        and isinstance(prompt, int)
        and isinstance(completion, int)
        and usage.total_tokens == prompt + completion
        and min(prompt, completion) >= 0
        and prompt + completion <= MAX_COUNT
    ):
        return Figures(prompt, 0, 0, completion, 0, complete=True)
    prompt_details = usage.prompt_tokens_details or _NO_PROMPT_DETAILS
    completion_details = usage.completion_tokens_details or _NO_COMPLETION_DETAILS
    timings = usage.timings or _NO_TIMINGS
    written = _first(prompt_details.cache_write_tokens, prompt_details.cache_creation_tokens)
    reasoning = _first(completion_details.reasoning_tokens, usage.reasoning_tokens)
    figures = Figures(
        prompt=usage.prompt_tokens or 0,
        cached=_first(prompt_details.cached_tokens, timings.cache_n) or 0,
        cache_write=written or 0,
        completion=usage.completion_tokens or 0,
        reasoning=reasoning or 0,
        complete=isinstance(usage.prompt_tokens, int)
        and (not generates or isinstance(usage.completion_tokens, int)),
    )
    if not _plausible(figures):
        return read_named_figures(raw, OF_CHUNKS, generates=generates)
    _clamp(figures, usage.total_tokens)
    return figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Where a dialect's usage object has its figures.

    Attributes:
        prompt, completion: members with the two counts; the first that is there counts.
        prompt_details, completion_details: members with their parts.
        cache_excluded: cached and written tokens stand beside the prompt's count, as members of
            their own, and are not in it.
        total_is_prompt: where nothing but the total is said, it is the prompt's.
    """

    prompt: tuple[str, ...]
    completion: str
    prompt_details: tuple[str, ...] = ()
    completion_details: tuple[str, ...] = ()
    cache_excluded: bool = False
    total_is_prompt: bool = False


OF_CHUNKS = Names(
    prompt=("prompt_tokens",),
    completion="completion_tokens",
    prompt_details=("prompt_tokens_details",),
    completion_details=("completion_tokens_details",),
)
OF_RESPONSES = Names(
    prompt=("input_tokens",),
    completion="output_tokens",
    prompt_details=("input_tokens_details", "input_token_details"),
    completion_details=("output_tokens_details", "output_token_details"),
)
OF_MESSAGES = Names(prompt=("input_tokens",), completion="output_tokens", cache_excluded=True)
OF_RERANK = Names(
    prompt=("prompt_tokens", "input_tokens"), completion="completion_tokens", total_is_prompt=True
)


def read_named_figures(
    raw: bytes | msgspec.Raw, names: Names, *, generates: bool, tiered: bool = False
) -> Figures | None:
    """Read a usage object by the names of its dialect, every figure for itself.

    Args:
        tiered: the service tier is looked for in it.

    Returns:
        None where one of the two counts themselves is unreadable; see `read_figures`.
    """
    try:
        members = _MEMBERS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    lost: list[str] = []
    prompt = _first_of(members, names.prompt, lost)
    completion = _figure(members, names.completion, lost)
    if lost:
        return None
    total = _figure(members, "total_tokens", lost)
    if prompt is None and names.total_is_prompt:
        prompt = total
    if names.cache_excluded:
        cached = _figure(members, "cache_read_input_tokens", lost)
        written = _figure(members, "cache_creation_input_tokens", lost)
        outside = (cached or 0) + (written or 0)
    else:
        details = _details(members, names.prompt_details, lost)
        cached = _figure(details, "cached_tokens", lost)
        written = _first_of(details, ("cache_write_tokens", "cache_creation_tokens"), lost)
        outside = 0
    details = _details(members, names.completion_details, lost)
    reasoning = _figure(details, "reasoning_tokens", lost)
    if reasoning is None:
        reasoning = _figure(members, "reasoning_tokens", lost)
    figures = Figures(
        prompt=(prompt or 0) + outside,
        cached=cached or 0,
        cache_write=written or 0,
        completion=completion or 0,
        reasoning=reasoning or 0,
        complete=prompt is not None
        and (not generates or completion is not None)
        and not (names.cache_excluded and bool(lost)),
        prompt_said=prompt is not None,
        completion_said=completion is not None,
        tier=tier_named(members.get("service_tier", b"")) if tiered else "",
    )
    _clamp(figures, UNSET if names.cache_excluded or total is None else total)
    if lost:
        figures.anomalies = (*figures.anomalies, "detail_unreadable")
    return figures


def _figure(members: Mapping[str, msgspec.Raw], name: str, lost: list[str]) -> int | None:
    """A count; None where it is absent, null or unreadable, which last is noted in `lost`."""
    raw = members.get(name)
    if raw is None or bytes(raw) == b"null":
        return None
    whole = _WHOLE.match(bytes(raw))
    count = -1 if whole is None else int(whole[1])
    if not 0 <= count <= MAX_COUNT:
        lost.append(name)
        return None
    return count


def _first_of(
    members: Mapping[str, msgspec.Raw], names: tuple[str, ...], lost: list[str]
) -> int | None:
    for name in names:
        count = _figure(members, name, lost)
        if count is not None:
            return count
    return None


def _details(
    members: Mapping[str, msgspec.Raw], names: tuple[str, ...], lost: list[str]
) -> Mapping[str, msgspec.Raw]:
    for name in names:
        raw = members.get(name)
        if raw is not None and bytes(raw) != b"null":
            try:
                return _MEMBERS.decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                lost.append(name)
    return {}


def _first(preferred: Figure, other: Figure) -> Figure:
    return preferred if isinstance(preferred, int) else other


def _plausible(figures: Figures) -> bool:
    counts = (
        figures.prompt,
        figures.cached,
        figures.cache_write,
        figures.completion,
        figures.reasoning,
    )
    return min(counts) >= 0 and max(counts) <= MAX_COUNT


def _clamp(figures: Figures, total: Figure) -> None:
    """Make the parts fit their wholes: a class must never be negative.

    SGLang once reported more cached than prompt tokens after a retraction.
    """
    found: list[str] = []
    if isinstance(total, int) and total != figures.prompt + figures.completion:
        found.append("total_mismatch")
    if figures.cached > figures.prompt:
        figures.cached = figures.prompt
        found.append("cached_exceeds_prompt")
    if figures.cache_write > figures.prompt - figures.cached:
        figures.cache_write = figures.prompt - figures.cached
        found.append("cache_write_exceeds_prompt")
    if figures.reasoning > figures.completion:
        figures.reasoning = figures.completion
        found.append("reasoning_exceeds_output")
    figures.anomalies = tuple(found)


def raw_figures(raw: bytes | msgspec.Raw) -> dict[str, int]:
    """The whole numbers of a usage object by dotted path, as the engine gave them.

    Kept beside the counts, so that re-rating and audits see the original. Text is left out.
    """
    try:
        tree = _ANY.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    found: dict[str, int] = {}
    if isinstance(tree, dict):
        _flatten("", cast("dict[str, Any]", tree), found, depth=0)
    return found


def _flatten(path: str, node: dict[str, Any], found: dict[str, int], *, depth: int) -> None:
    for key, child in node.items():
        at = f"{path}.{key}" if path else key
        if type(child) is int:  # and no bool
            known = at in _USUAL_PATHS or _SAFE_KEY.match(at) is not None
            if known and -MAX_COUNT <= child <= MAX_COUNT and len(found) < MAX_RAW_FIGURES:
                found[at] = child
        elif isinstance(child, dict) and depth < MAX_DEPTH:
            _flatten(at, cast("dict[str, Any]", child), found, depth=depth + 1)
