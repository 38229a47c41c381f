"""A request of every metered route, what an engine answers to it, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from billing.admission.route import Route
from billing.journal.records import Counts
from tests.engines.test_multipart import TYPE, Field, body_of
from tests.fake_engine.scripted import Script

JSON = b"application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A good request: `body` asks exactly as the proxy itself would ask the engine."""

    route: Route
    body: bytes
    script: Script
    content_type: bytes = JSON
    counts: Counts = field(default_factory=Counts)
    units: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def name(self) -> str:
        return f"{self.route.value}{'-stream' if self.script.chunked else ''}"

    def renamed(self, model: str) -> bytes:
        """The body with another model."""
        if self.content_type == JSON:
            return json.dumps({**json.loads(self.body), "model": model}).encode()
        return self.body.replace(b'"model"\r\n\r\n' + MODEL[self.route].encode(),
                                 b'"model"\r\n\r\n' + model.encode())  # fmt: skip


MODEL = {
    Route.CHAT_COMPLETIONS: "text",
    Route.COMPLETIONS: "text",
    Route.RESPONSES: "text",
    Route.MESSAGES: "text",
    Route.COUNT_TOKENS: "text",
    Route.EMBEDDINGS: "embed",
    Route.RERANK: "rank",
    Route.TRANSCRIPTIONS: "hear",
    Route.TRANSLATIONS: "hear",
    Route.SPEECH: "speak",
    Route.IMAGES: "paint",
}


def whole(answer: object) -> Script:
    """An indented answer, so that nobody gets away with encoding it again."""
    return Script(pieces=(json.dumps(answer, indent=1).encode(),))


def events(*named: tuple[str, Mapping[str, object]]) -> Script:
    """A stream of events with names."""
    pieces = tuple(
        f"event: {name}\ndata: {json.dumps({'type': name, **members})}\n\n".encode()
        for name, members in named
    )
    return Script(pieces=pieces, chunked=True, content_type="text/event-stream")


def body(route: Route, **members: object) -> bytes:
    return json.dumps({"model": MODEL[route], **members}).encode()


OF_CHAT = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4},
}
OF_RESPONSES = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 16,
}
OF_MESSAGES = {
    "input_tokens": 7,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 3,
    "output_tokens": 5,
}
SOUND = Field("file", b"RIFF\r\n--b0un\0" * 50, "a.wav")
MESSAGES = [{"role": "user", "content": "hi ü"}]


def chunk(choices: list[object], usage: object) -> bytes:
    answer = {"id": "x", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(answer).encode() + b"\n\n"


def counted(done: int) -> dict[str, int]:
    return {"prompt_tokens": 11, "completion_tokens": done, "total_tokens": 11 + done}


CHAT_STREAM = Script(
    pieces=(
        *(chunk([{"index": 0, "delta": {"content": f" {n}"}}], counted(n + 1)) for n in range(5)),
        chunk([{"index": 0, "delta": {}, "finish_reason": "length"}], counted(5)),
        chunk([], OF_CHAT),
        b"data: [DONE]\n\n",
    ),
    chunked=True,
    content_type="text/event-stream",
)


def response(status: str, usage: object = OF_RESPONSES) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "status": status, "output": [], "usage": usage}


def response_stream(ending: str, usage: object = OF_RESPONSES) -> Script:
    status = ending.removeprefix("response.")
    return events(
        ("response.created", {"response": response("in_progress", None)}),
        *(("response.output_text.delta", {"delta": f" {n}"}) for n in range(5)),
        (ending, {"response": response(status, usage)}),
    )


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
}
MESSAGE_STREAM = events(
    ("message_start", {"message": {**MESSAGE, "usage": {**OF_MESSAGES, "output_tokens": 1}}}),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("ping", {}),
    *(
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": f" {n}"}})
        for n in range(5)
    ),
    ("content_block_stop", {"index": 0}),
    ("message_delta", {"delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 5}}),
    ("message_stop", {}),
)

TEXT_COUNTS = Counts(input=7, cached_input=4, output=5)
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}

ASKS = (
    Ask(
        route=Route.CHAT_COMPLETIONS,
        body=body(Route.CHAT_COMPLETIONS, messages=MESSAGES),
        script=whole({"id": "c", "choices": [{"index": 0}], "usage": OF_CHAT}),
        counts=TEXT_COUNTS,
    ),
    Ask(
        route=Route.CHAT_COMPLETIONS,
        body=body(
            Route.CHAT_COMPLETIONS, messages=MESSAGES, stream=True, stream_options=CONTINUOUS
        ),
        script=CHAT_STREAM,
        counts=TEXT_COUNTS,
    ),
    Ask(
        route=Route.COMPLETIONS,
        body=body(Route.COMPLETIONS, prompt="hi"),
        script=whole({"id": "c", "choices": [{"text": "x"}], "usage": OF_CHAT}),
        counts=TEXT_COUNTS,
    ),
    Ask(
        route=Route.RESPONSES,
        body=body(Route.RESPONSES, input="hi", store=False),
        script=whole(response("completed")),
        counts=Counts(input=7, cached_input=4, output=5, reasoning=2),
    ),
    Ask(
        route=Route.RESPONSES,
        body=body(Route.RESPONSES, input="hi", stream=True, store=False),
        script=response_stream("response.completed"),
        counts=Counts(input=7, cached_input=4, output=5, reasoning=2),
    ),
    Ask(
        route=Route.MESSAGES,
        body=body(Route.MESSAGES, max_tokens=9, messages=MESSAGES),
        script=whole({**MESSAGE, "usage": OF_MESSAGES}),
        counts=Counts(input=7, cached_input=4, cache_write=3, output=5),
    ),
    Ask(
        route=Route.MESSAGES,
        body=body(Route.MESSAGES, max_tokens=9, messages=MESSAGES, stream=True),
        script=MESSAGE_STREAM,
        counts=Counts(input=7, cached_input=4, cache_write=3, output=5),
    ),
    Ask(
        route=Route.COUNT_TOKENS,
        body=body(Route.COUNT_TOKENS, messages=MESSAGES),
        script=whole({"input_tokens": 14}),
    ),
    Ask(
        route=Route.EMBEDDINGS,
        body=body(Route.EMBEDDINGS, input=["a", "b"]),
        script=whole({"data": [], "usage": {"prompt_tokens": 11, "total_tokens": 11}}),
        counts=Counts(input=11),
    ),
    Ask(
        route=Route.RERANK,
        body=body(Route.RERANK, query="q", documents=["a", "b"]),
        script=whole({"results": [], "usage": {"total_tokens": 11}}),
        counts=Counts(input=11),
        units={"rerank.searches": 1},
    ),
    Ask(
        route=Route.TRANSCRIPTIONS,
        body=body_of([Field("model", b"hear"), SOUND]),
        content_type=TYPE,
        script=whole({"text": "ah", "usage": {"type": "duration", "seconds": 3}}),
        units={"audio.seconds": 3_000},
    ),
    Ask(
        route=Route.TRANSLATIONS,
        body=body_of([SOUND, Field("model", b"hear"), Field("response_format", b"verbose_json")]),
        content_type=TYPE,
        script=whole({"text": "ah", "duration": "3.0004", "language": "en"}),
        units={"audio.seconds": 3_001},
    ),
    Ask(
        route=Route.SPEECH,
        body=body(Route.SPEECH, input="grüß \U0001f600", voice="v"),
        script=Script(pieces=(b"ID3\0\xff", b"\r\n\r\n{}" * 99), content_type="audio/mpeg"),
        units={"speech.characters": 6},
    ),
    Ask(
        route=Route.IMAGES,
        body=body(Route.IMAGES, prompt="p", n=2),
        script=whole({"created": 1, "data": [{"b64_json": "AA=="}, {"b64_json": "AA=="}]}),
        units={"images": 2},
    ),
)
