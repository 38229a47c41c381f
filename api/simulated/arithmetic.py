"""What the simulated engine answers, and how it counts.

Decides: one whitespace word of the prompt is one token; an answer has `max_tokens` tokens, or 16;
a system prompt of 32 words or more is cached from its second use on. Everything follows from the
request and what was asked before, so that bills can be checked by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, cast

import msgspec

DEFAULT_TOKENS = 16
MAX_TOKENS = 100_000
CACHED_FROM_WORDS = 32
REMEMBERED_PROMPTS = 4_096

_SENTENCE = (
    "a steelyard weighs what the yard has sold and settles the account of every merchant"
    " who came by river or by road with wool salt tin or wine before the scale was set"
)
_WORDS = tuple(_SENTENCE.split())


class StreamOptions(msgspec.Struct):
    """What a stream is asked to report."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Request(msgspec.Struct):
    """The members that the simulation reads."""

    model: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[Any] | None = None
    input: str | list[Any] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    system: str | list[Any] | None = None
    instructions: str | None = None
    query: str | None = None
    documents: list[Any] | None = None
    top_n: int | None = None
    n: int | None = None
    dimensions: int | None = None
    encoding_format: str | None = None

    @property
    def answer_tokens(self) -> int:
        """Tokens of one choice."""
        asked = self.max_completion_tokens or self.max_tokens or self.max_output_tokens
        asked = asked or DEFAULT_TOKENS
        return max(1, min(asked, MAX_TOKENS))

    @property
    def choices(self) -> int:
        """How many answers."""
        return max(1, min(self.n or 1, 16))


class PromptCache:
    """System prompts seen so far, in bounded memory."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def cached_tokens(self, system_prompt: str) -> int:
        """Tokens of the prompt that come from the cache; remembers it for the next time."""
        words = len(system_prompt.split())
        if words < CACHED_FROM_WORDS:
            return 0
        digest = hashlib.sha256(system_prompt.encode()).digest()
        if digest in self._seen:
            return words
        while len(self._seen) >= REMEMBERED_PROMPTS:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = None
        return 0


def words_of(content: object) -> int:
    """Tokens of a prompt in any of the shapes that the API takes."""
    if isinstance(content, str):
        return len(content.split())
    if isinstance(content, dict):
        members = cast("dict[str, object]", content)
        return words_of(members.get("text", members.get("content")))
    if isinstance(content, list):
        return sum(words_of(part) for part in cast("list[object]", content))
    return 1 if isinstance(content, int) else 0


def prompt_tokens(request: Request) -> int:
    """Tokens of the whole prompt, cached ones included."""
    apart = words_of(request.system) + words_of(request.instructions)
    if request.messages is not None:
        return apart + sum(words_of(message.get("content")) for message in request.messages)
    return apart + words_of(request.prompt if request.prompt is not None else request.input)


def system_prompt(request: Request) -> str:
    """The text of the first system message, if it is text."""
    for apart in (request.system, request.instructions):
        if isinstance(apart, str):
            return apart
    for message in request.messages or ():
        if message.get("role") == "system" and isinstance(message.get("content"), str):
            return message["content"]
    return ""


def answer_words(count: int) -> Iterable[str]:
    """Tokens of an answer: every one is a word, with a space before all but the first."""
    for position in range(count):
        word = _WORDS[position % len(_WORDS)]
        yield word if position == 0 else f" {word}"


def usage(prompt: int, completion: int, cached: int | None) -> dict[str, Any]:
    """A usage object; `cached` None leaves the details out, as on continuous counts."""
    figures: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
    }
    if cached is not None:
        figures["prompt_tokens_details"] = {"cached_tokens": cached}
    return figures


def embedding(text: object, dimensions: int) -> list[float]:
    """A deterministic unit-free vector."""
    seed = hashlib.sha256(msgspec.json.encode(text)).digest()
    return [(seed[position % 32] - 128) / 128 for position in range(dimensions)]
