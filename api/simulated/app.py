"""The simulated engine as an ASGI application, on the wire like vLLM.

Decides: routes, shapes and pace. Every answer says that it is simulated in a header, which the
proxy passes on, so that nobody takes it for a model's.
"""

from __future__ import annotations

import array
import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from api.simulated.arithmetic import (
    PromptCache,
    Request,
    answer_words,
    embedding,
    prompt_tokens,
    system_prompt,
    usage,
    words_of,
)
from api.simulated.counters import PAGE_TYPE, EngineCounters
from api.simulated.dialects import CREATED, message, message_events, response, response_events
from api.simulated.media import pictures, ranking, speech, transcript
from billing.errors import InvalidInput

CHAT_MODELS = ("sim-small", "sim-large")
MODELS_OF_ROUTE = {
    "/v1/chat/completions": CHAT_MODELS,
    "/v1/completions": CHAT_MODELS,
    "/v1/responses": CHAT_MODELS,
    "/v1/messages": CHAT_MODELS,
    "/v1/messages/count_tokens": CHAT_MODELS,
    "/v1/embeddings": ("sim-embed",),
    "/v1/rerank": ("sim-rank",),
    "/v1/audio/transcriptions": ("sim-hear",),
    "/v1/audio/translations": ("sim-hear",),
    "/v1/audio/speech": ("sim-speak",),
    "/v1/images/generations": ("sim-paint",),
}
MODELS = tuple(dict.fromkeys(name for names in MODELS_OF_ROUTE.values() for name in names))
HEADER = (b"x-steelyard-simulated", b"true")
MAX_DIMENSIONS = 4_096

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

_DECODER = msgspec.json.Decoder(Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast it answers, in milliseconds.

    Attributes:
        first_token_ms: silence before the first token, as a real prefill has.
        token_ms: between two tokens of a stream.
    """

    first_token_ms: int = 0
    token_ms: int = 0


class SimulatedEngine:
    """The ASGI application."""

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self._cache = PromptCache()
        self._served = 0
        self._counters = EngineCounters()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if method == "GET" and path == "/v1/models":
            rows = [{"id": name, "object": "model", "created": CREATED} for name in MODELS]
            await _answer(send, 200, {"object": "list", "data": rows})
        elif method == "GET" and path == "/health":
            await _answer(send, 200, {"status": "ok"})
        elif method == "GET" and path == "/metrics":
            await _send_whole(send, 200, PAGE_TYPE, self._counters.page())
        elif method == "POST" and path in MODELS_OF_ROUTE:
            await self._infer(scope, receive, send)
        else:
            await _refuse(send, 404, "Not found.")

    async def _infer(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        path = scope["path"]
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        heard: dict[str, Any] = {}
        try:
            if path in _FORMS:
                content_type = dict(scope["headers"]).get(b"content-type", b"")
                model, heard = transcript(bytes(body), content_type)
                request = Request(model=model)
            else:
                request = _DECODER.decode(body)
        except (msgspec.DecodeError, InvalidInput):
            await _refuse(send, 400, "The request body cannot be read.")
            return
        if request.model not in MODELS_OF_ROUTE[path]:
            await _refuse(send, 404, "The model does not exist.")
            return
        self._served += 1
        if request.stream and path in _STREAMED:
            await self._stream(path, request, receive, send)
            return
        await _sleep(self._pace.first_token_ms)
        if path == "/v1/audio/speech":
            await _send_whole(send, 200, b"audio/wav", speech(request))
        else:
            content = heard or self._whole(path, request)
            self._count_whole(path, request, content)
            await _answer(send, 200, content)

    def _count_whole(self, path: str, request: Request, content: dict[str, Any]) -> None:
        match path:
            case "/v1/embeddings" | "/v1/rerank":
                self._counters.prompt += content["usage"]["prompt_tokens"]
            case _ if path in _STREAMED:
                self._counters.prompt += prompt_tokens(request)
                choices = 1 if path in _NAMED_EVENTS else request.choices
                self._counters.generation += request.answer_tokens * choices
            case _:
                pass

    def _whole(self, path: str, request: Request) -> dict[str, Any]:
        match path:
            case "/v1/embeddings":
                return _embeddings(request)
            case "/v1/responses":
                return response(request, self._served, self._cached(request), "completed")
            case "/v1/messages":
                return message(request, self._served, self._cached(request))
            case "/v1/messages/count_tokens":
                return {"input_tokens": prompt_tokens(request)}
            case "/v1/rerank":
                return ranking(request)
            case "/v1/images/generations":
                return pictures(request, CREATED)
            case _:
                return self._completion(path, request)

    def _completion(self, path: str, request: Request) -> dict[str, Any]:
        text = "".join(answer_words(request.answer_tokens))
        chat = path == "/v1/chat/completions"
        choices: list[dict[str, Any]] = []
        for index in range(request.choices):
            answer = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices.append({"index": index, **answer, "logprobs": None, "finish_reason": "length"})
        prompt, cached = prompt_tokens(request), self._cached(request)
        return {
            "id": self._id(path),
            "object": "chat.completion" if chat else "text_completion",
            "created": CREATED,
            "model": request.model,
            "choices": choices,
            "usage": usage(prompt, request.answer_tokens * request.choices, cached),
        }

    async def _stream(self, path: str, request: Request, receive: _Receive, send: _Send) -> None:
        left = asyncio.create_task(_until_left(receive))
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), HEADER]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await _sleep(self._pace.first_token_ms)
            async for event in self._events(path, request):
                if left.done():
                    return
                await send({"type": "http.response.body", "body": event, "more_body": True})
            end = b"" if path in _NAMED_EVENTS else b"data: [DONE]\n\n"
            await send({"type": "http.response.body", "body": end})
        finally:
            left.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await left

    async def _events(self, path: str, request: Request) -> AsyncIterator[bytes]:
        self._counters.prompt += prompt_tokens(request)
        if path in _NAMED_EVENTS:
            events = response_events if path == "/v1/responses" else message_events
            for event in events(request, self._served, self._cached(request)):
                is_token = event.startswith(_TOKEN_EVENTS)
                self._counters.generation += is_token
                yield event
                await _sleep(self._pace.token_ms if is_token else 0)
            return
        chat = path == "/v1/chat/completions"
        options = request.stream_options
        asked = options is not None and bool(options.include_usage)
        continuous = asked and options is not None and bool(options.continuous_usage_stats)
        prompt, cached = prompt_tokens(request), self._cached(request)
        head = {
            "id": self._id(path),
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": CREATED,
            "model": request.model,
        }

        def chunk(index: int, delta: dict[str, Any], done: int, finish: str | None) -> bytes:
            part = {"delta": delta} if chat else {"text": delta.get("content", "")}
            choice = {"index": index, **part, "logprobs": None, "finish_reason": finish}
            counts = {"usage": usage(prompt, done, None)} if continuous else {}
            return _event({**head, "choices": [choice], **counts})

        if chat:
            for index in range(request.choices):
                yield chunk(index, {"role": "assistant", "content": ""}, 0, None)
        for done, word in enumerate(answer_words(request.answer_tokens), start=1):
            for index in range(request.choices):
                last = not chat and done == request.answer_tokens
                self._counters.generation += 1
                yield chunk(index, {"content": word}, done, "length" if last else None)
            await _sleep(self._pace.token_ms)
        if chat:
            for index in range(request.choices):
                yield chunk(index, {}, request.answer_tokens, "length")
        if asked:
            total = usage(prompt, request.answer_tokens * request.choices, cached)
            yield _event({**head, "choices": [], "usage": total})

    def _cached(self, request: Request) -> int:
        return self._cache.cached_tokens(system_prompt(request))

    def _id(self, path: str) -> str:
        prefix = "chatcmpl" if path == "/v1/chat/completions" else "cmpl"
        return f"{prefix}-sim-{self._served}"


_FORMS = frozenset({"/v1/audio/transcriptions", "/v1/audio/translations"})
_NAMED_EVENTS = frozenset({"/v1/responses", "/v1/messages"})
_TOKEN_EVENTS = (b"event: response.output_text.delta\n", b"event: content_block_delta\n")
_STREAMED = _NAMED_EVENTS | {"/v1/chat/completions", "/v1/completions"}


def _embeddings(request: Request) -> dict[str, Any]:
    given = request.input
    many = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    texts: list[object] = cast("list[object]", given) if many else [given]
    dimensions = max(1, min(request.dimensions or 8, MAX_DIMENSIONS))
    rows: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        numbers = embedding(text, dimensions)
        vector: object = numbers
        if request.encoding_format == "base64":
            vector = base64.b64encode(array.array("f", numbers).tobytes()).decode("ascii")
        rows.append({"object": "embedding", "index": index, "embedding": vector})
    prompt = sum(words_of(text) for text in texts)
    return {
        "object": "list",
        "data": rows,
        "model": request.model,
        "usage": {"prompt_tokens": prompt, "total_tokens": prompt},
    }


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


async def _sleep(milliseconds: int) -> None:
    if milliseconds:
        await asyncio.sleep(milliseconds / 1000)


async def _until_left(receive: _Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(send: _Send, status: int, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    await _answer(send, status, {"error": error})


async def _answer(send: _Send, status: int, content: dict[str, Any]) -> None:
    await _send_whole(send, status, b"application/json", msgspec.json.encode(content))


async def _send_whole(send: _Send, status: int, content_type: bytes, content: bytes) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(content)),
        HEADER,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
