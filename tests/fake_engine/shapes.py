"""The bytes of an engine's answers, by engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the engine answers.

    Attributes:
        shape: `vllm`, `sglang`, `transformers` or `openai` (no continuous counts).
        prompt, cached, tokens, reasoning: what it counts; `tokens` per choice.
        pace_ms: between two content events; silent_ms: before the first.
        break_after: close the connection after so many content events.
        error_after: send an error event after so many.
        usage: whether it reports usage at all.
        done: whether it ends streams with `[DONE]` (its shape decides when None).
        status, answer: a whole answer instead, as given.
        headers: further response headers.
        crlf: line ends of events; cut: bytes per write, to tear events apart.
        close_delimited: no length and no chunks: the body ends with the connection.
        hang: never answer.
        drops: close the connection in place of an answer.
        headless: close it behind the head of a stream; empty: end the stream there.
        informational: send a 103 first.
        filler: extra bytes of text per token.
    """

    shape: str = "vllm"
    prompt: int = 11
    cached: int | None = 4
    tokens: int = 5
    reasoning: int | None = None
    pace_ms: int = 0
    silent_ms: int = 0
    break_after: int | None = None
    error_after: int | None = None
    usage: bool = True
    done: bool | None = None
    status: int = 200
    answer: bytes | None = None
    headers: tuple[str, ...] = ()
    crlf: bool = False
    cut: int | None = None
    close_delimited: bool = False
    hang: bool = False
    drops: bool = False
    headless: bool = False
    empty: bool = False
    informational: bool = False
    filler: int = 0

    @property
    def ends_with_done(self) -> bool:
        return self.shape != "transformers" if self.done is None else self.done


@dataclass(frozen=True, slots=True)
class Piece:
    """One event: its bytes and how many generated tokens it carries."""

    text: bytes
    tokens: int = 0


def usage_object(
    behaviour: Behaviour, completion: int, *, details: bool, reasoning: int | None = None
) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": behaviour.prompt,
        "total_tokens": behaviour.prompt + completion,
        "completion_tokens": completion,
    }
    if details and behaviour.cached is not None and behaviour.shape != "transformers":
        usage["prompt_tokens_details"] = {"cached_tokens": behaviour.cached}
    if reasoning is not None:
        if behaviour.shape == "sglang":
            usage["reasoning_tokens"] = reasoning
        else:
            usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


def whole(path: str, request: dict[str, Any], behaviour: Behaviour) -> bytes:
    """A complete answer, indented so that nobody gets away with re-encoding it."""
    if behaviour.answer is not None:
        return behaviour.answer
    choices = int(request.get("n") or 1)
    body: dict[str, Any] = {"id": "x-1", "object": "whole", "model": "up/model@main"}
    if path == "/v1/embeddings":
        body["data"] = [{"object": "embedding", "index": 0, "embedding": [0.5, 1e-3, -2.0]}]
        usage = {"prompt_tokens": behaviour.prompt, "total_tokens": behaviour.prompt}
    else:
        body["choices"] = [
            {"index": index, "message": {"role": "assistant", "content": 'ü "usage" \n'}}
            for index in range(choices)
        ]
        usage = usage_object(
            behaviour, behaviour.tokens * choices, details=True, reasoning=behaviour.reasoning
        )
    if behaviour.usage:
        body["usage"] = usage
    return json.dumps(body, indent=1).encode()


class Events:
    """The events of a stream, as the shape's engine would answer this request."""

    def __init__(self, path: str, request: dict[str, Any], behaviour: Behaviour) -> None:
        options = request.get("stream_options") or {}
        self.behaviour = behaviour
        self.chat = "chat" in path
        self.choices = int(request.get("n") or 1)
        self.asked = bool(options.get("include_usage")) and behaviour.usage
        self.continuous = (
            self.asked
            and bool(options.get("continuous_usage_stats"))
            and behaviour.shape in {"vllm", "sglang"}
        )
        self.rides = behaviour.shape == "transformers" and behaviour.usage
        self.end = b"\r\n\r\n" if behaviour.crlf else b"\n\n"

    def event(self, chunk: object) -> bytes:
        return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + self.end

    def chunk(
        self, index: int, delta: dict[str, Any], sent: int, finish: str | None = None
    ) -> bytes:
        answer = {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        choice = {"index": index, **answer, "finish_reason": finish}
        body: dict[str, Any] = {"id": "x-1", "choices": [choice]}
        if self.continuous or (self.rides and finish):
            body["usage"] = usage_object(self.behaviour, sent, details=False)
        elif self.behaviour.shape == "openai" and self.asked:
            body["usage"] = None
        return self.event(body)

    def all(self) -> Iterator[Piece]:
        yield Piece(b": keep-alive" + self.end)
        for index in range(self.choices):
            yield Piece(self.chunk(index, {"role": "assistant", "content": ""}, 0))
        for number in range(self.behaviour.tokens):
            if self.behaviour.error_after == number:
                yield Piece(self.event({"error": {"message": "engine died", "code": 500}}))
                break
            for index in range(self.choices):
                text = f' w{number} "usage":{{}}' + "." * self.behaviour.filler
                yield Piece(self.chunk(index, {"content": text}, number + 1), tokens=1)
        else:
            yield from self.ending()
        if self.behaviour.ends_with_done:
            yield Piece(b"data: [DONE]" + self.end)

    def ending(self) -> Iterator[Piece]:
        for index in range(self.choices):
            yield Piece(self.chunk(index, {}, self.behaviour.tokens, "length"))
        if self.asked and not self.rides:
            total = usage_object(
                self.behaviour,
                self.behaviour.tokens * self.choices,
                details=True,
                reasoning=self.behaviour.reasoning,
            )
            yield Piece(self.event({"id": "x-1", "choices": [], "usage": total}))
