"""Streams made up at random for each engine, against a second, plain account of their cost.

What a boundary costs is worked out here from what the stream was made of, never from its text:
the counts that the engine says as it goes, else one token for each event with content, else the
total once it is said and nothing came behind it.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from billing.admission.route import Route
from billing.engines.capabilities import engine_named
from billing.engines.mark import Mark
from billing.engines.read_request import read_request
from billing.engines.reading import StreamReading, stream_reading

COUNT_AS_THEY_GO = ("vllm", "nim", "sglang", "tensorrt_llm", "simulated")
OTHERS = ("generic", "dynamo", "llama_cpp", "openai", "transformers")
TEXTS = ("a", " b", "ü€😀", '"q"\\', "usage", '"usage":{"x":1}')
MEMBERS = ("content", "content", "reasoning_content", "reasoning", "refusal", "tool_calls")
STREAMS_PER_ENGINE = 150


@dataclass(slots=True)
class Part:
    """One event: how it stands on the wire, what the client gets, and what it says."""

    wire: bytes
    shown: bytes
    choice: int = 0
    content: bool = False
    counted: int | None = None  # tokens of its choice so far
    total: dict[str, Any] | None = None  # usage of the whole answer
    ends: bool = False


class Stream:
    """A stream and its request."""

    def __init__(self, engine: str, rng: random.Random) -> None:
        self.engine, self.rng, self.counts = engine, rng, engine in COUNT_AS_THEY_GO
        self.parts: list[Part] = []
        self.chat = rng.random() < 0.7
        self.n = 1 if self.engine == "transformers" else rng.choice([1, 1, 2, 3])
        self.asked = rng.choice([0, 0, 1, 2])  # nothing, usage, usage with every chunk
        self.prompt, self.floor = rng.randint(1, 500), rng.randint(0, 9)
        self.cached = rng.randint(0, self.prompt)
        self.eol = rng.choice(["\n", "\n", "\r\n"])
        self.compact, self.nulls = rng.random() < 0.7, rng.random() < 0.3
        self.tokens = [0] * self.n
        unasked = self.engine == "transformers" or self.asked == 2
        self.injected = not unasked and (self.counts or not self.asked)
        self.write()

    def write(self) -> None:
        """Make it up."""
        rng, live = self.rng, list(range(self.n))
        for _ in range(rng.randint(0, 12)):
            if rng.random() < 0.12:
                self.add(": ping", bare=": ping")
            elif len(live) > 1 and rng.random() < 0.2:
                self.chunk(live.pop(rng.randrange(len(live))), None, finish="stop")
            else:
                choice = rng.choice(live)
                self.tokens[choice] += rng.randint(1, 3)
                self.chunk(choice, rng.choice(TEXTS))
        if rng.random() < 0.2:
            return  # cut
        alone = self.counts or self.engine == "openai" or rng.random() < 0.5
        alone = alone and self.engine != "transformers"
        while live:
            choice = live.pop(0)
            self.chunk(choice, None, finish="stop", last=not live and not alone)
        if alone:
            usage = self.usage(sum(self.tokens), whole=True)
            more = {"timings": {"cache_n": self.cached}} if self.engine == "llama_cpp" else {}
            self.event([], usage, more, total=usage)
        if self.engine != "transformers":
            self.add("data: [DONE]", bare="data: [DONE]", ends=True)

    def usage(self, completion: int, *, whole: bool = False) -> dict[str, Any]:
        counts = [("completion_tokens", completion), ("total_tokens", self.prompt + completion)]
        self.rng.shuffle(counts)
        more = {"prompt_tokens_details": {"cached_tokens": self.cached}} if whole else {}
        return {"prompt_tokens": self.prompt, **dict(counts), **more}

    def chunk(self, at: int, text: str | None, *, finish: str | None = None, last: bool = False):
        choice: dict[str, Any] = {"index": at, "finish_reason": finish}
        member = self.rng.choice(MEMBERS)
        if not self.chat:
            choice["text"] = text or ""
        elif text is None:
            choice["delta"] = {}
        elif member == "tool_calls":
            choice["delta"] = {member: [{"index": 0, "function": {"arguments": text}}]}
        else:
            choice["delta"] = {member: text}
        usage = self.usage(self.tokens[at]) if self.counts else None
        if last:
            usage = self.usage(sum(self.tokens), whole=True)
        counted = self.tokens[at] if self.counts else None
        total = usage if last else None
        self.event([choice], usage, {}, at, content=bool(text), counted=counted, total=total)

    def event(
        self, choices: list[Any], usage: Any, more: dict[str, Any], choice: int = 0, **says: Any
    ) -> None:
        rng = self.rng
        members = [("id", "c"), ("created", 1), ("choices", choices), *more.items()]
        full = list(members)
        if usage is not None or (self.nulls and not self.counts and self.engine != "transformers"):
            full.insert(rng.choice([0, 2, len(full)]), ("usage", usage))
        hidden = self.injected and not (self.asked and (usage is None or not choices))
        before = rng.choice(["", "", ": c" + self.eol, "id: 1" + self.eol]) + "data: "
        separators = (",", ":") if self.compact else None
        wire, bare = (
            before + json.dumps(dict(pairs), separators=separators, ensure_ascii=self.compact)
            for pairs in (full, members if hidden else full)
        )
        self.add(wire, bare="" if hidden and not choices else bare, choice=choice, **says)

    def add(self, wire: str, *, bare: str, **says: Any) -> None:
        end = self.eol * 2
        shown = (bare + end).encode() if bare else b""
        self.parts.append(Part((wire + end).encode(), shown, **says))

    def reading(self) -> StreamReading:
        route = Route.CHAT_COMPLETIONS if self.chat else Route.COMPLETIONS
        asked = {"include_usage": bool(self.asked), "continuous_usage_stats": self.asked == 2}
        body = {"model": "m", "stream": True, "n": self.n, "stream_options": asked}
        request = read_request(json.dumps(body).encode(), route)
        return stream_reading(route, engine_named(self.engine), request, prompt_floor=self.floor)

    def cost(self, upto: int) -> tuple[Mark, bool]:
        """What so many events cost, and whether they are known to be all."""
        counts: dict[int, int] = {}
        content, total = 0, None
        for part in self.parts[:upto]:
            content += part.content
            total = part.total or (None if part.content else total)
            if part.counted is not None:
                counts[part.choice] = part.counted
        if total is not None:
            output = total["completion_tokens"]
            return Mark(prompt=self.prompt, cached=self.cached, completion=output), True
        if self.counts:
            said = self.prompt if counts else 0
            return Mark(prompt=said, completion=sum(counts.values())), False
        return Mark(prompt=self.floor if content else 0, completion=content), False


@pytest.mark.parametrize("engine", [*COUNT_AS_THEY_GO, *OTHERS])
def test_every_boundary_costs_what_has_left(engine):
    for seed in range(STREAMS_PER_ENGINE):
        stream = Stream(engine, random.Random(f"{engine} {seed}"))
        reading, got, left = stream.reading(), b"", 0
        for at, part in enumerate(stream.parts, 1):
            got += reading.feed(part.wire)
            shown = b"".join(each.shown for each in stream.parts[:at])
            if reading.holding:
                assert shown.startswith(got), seed
            else:
                assert got == shown, seed
                left = at
                assert (reading.mark, reading.exact) == stream.cost(at), seed
            assert reading.passed in {stream.cost(each)[0] for each in range(left, at + 1)}, seed
        got += reading.finish() + reading.held()
        assert got == b"".join(part.shown for part in stream.parts), seed
        assert (reading.mark, reading.exact) == stream.cost(len(stream.parts)), seed


@pytest.mark.parametrize("engine", [*COUNT_AS_THEY_GO, *OTHERS])
def test_no_tearing_changes_what_it_costs(engine):
    for seed in range(STREAMS_PER_ENGINE):
        stream = Stream(engine, random.Random(f"{engine} {seed}"))
        wire, size = b"".join(part.wire for part in stream.parts), 1 + seed % 60
        reading = stream.reading()
        got = b"".join(reading.feed(wire[at : at + size]) for at in range(0, len(wire), size))
        assert got + reading.finish() + reading.held() == b"".join(
            part.shown for part in stream.parts
        )
        assert (reading.mark, reading.exact) == stream.cost(len(stream.parts)), seed
