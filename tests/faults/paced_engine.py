"""An engine that writes down, per request, what it counted: the one side of every fault test.

Every content event ends with the number of tokens generated so far (`<17>`), so that whoever holds
the bytes can count what was delivered without trusting anybody. An event carries one to three
tokens. How usage is reported follows the model: `engine-vllm` counts on every chunk when asked,
`engine-plain` once at the end, `engine-transformers` on its last chunk and without `[DONE]`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from billing.engines.counters import EngineCounters

MODELS = ("engine-vllm", "engine-plain", "engine-transformers")

BACKENDS = """
backends:
  - {{name: vllm, url: "{url}", engine: vllm, models: [{{name: engine-vllm}}]}}
  - {{name: plain, url: "{url}", engine: generic, models: [{{name: engine-plain}}]}}
  - name: transformers
    url: "{url}"
    engine: transformers
    models: [{{name: engine-transformers}}]
"""


@dataclass(slots=True)
class Served:
    """One request as the engine saw it.

    Attributes:
        model: what was asked for.
        prompt, planned: tokens of the prompt, and of the answer if nobody interrupts.
        sent: tokens of the answer that were handed to the kernel.
        ended: everything was.
    """

    model: str
    prompt: int
    planned: int
    sent: int = 0
    ended: bool = False


@dataclass(slots=True)
class PacedEngine:
    """A server.

    Attributes:
        pace_ms: between two content events.
        padding: further bytes in every content event.
        served: by our request id, `req_…`, which the proxy passes on.
        doubled: ids that came twice.
    """

    pace_ms: int = 0
    padding: int = 0
    port: int = 0
    served: dict[str, Served] = field(default_factory=dict[str, Served])
    doubled: list[str] = field(default_factory=list[str])
    tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self) -> list[int]:
        """Tokens sent so far, per request."""
        return [served.sent for served in self.served.values()]

    def counters(self, model: str) -> EngineCounters:
        """What the engine of a model would tell that it counted."""
        served = [each for each in self.served.values() if each.model == model]
        return EngineCounters(
            prompt=sum(each.prompt for each in served),
            generation=sum(each.sent for each in served),
            counts_cached=True,
        )

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the proxy was killed, or the test ends
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        served = Served(model=body["model"], prompt=_prompt(body), planned=body["max_tokens"])
        request_id = fields["x-request-id"]
        if request_id in self.served:
            self.doubled.append(request_id)
        self.served[request_id] = served
        if not body.get("stream"):
            await asyncio.sleep(self.pace_ms / 1000 * 4)
            answer = json.dumps(
                {"id": request_id, **_choice(body, f"<{served.planned}>", "length")}
            )
            answer = answer[:-1] + f', "usage": {json.dumps(_usage(served, served.planned))}}}'
            writer.write(_head("application/json", f"content-length: {len(answer)}"))
            writer.write(answer.encode())
            served.sent = served.planned
        else:
            writer.write(_head("text/event-stream", "transfer-encoding: chunked"))
            for event, tokens in _events(body, served, self.padding):
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
                if tokens:
                    served.sent += tokens
                    await asyncio.sleep(self.pace_ms / 1000)
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        served.ended = True
        await reader.read()  # until the proxy closes: its connection is not used twice


def _prompt(body: dict[str, Any]) -> int:
    return sum(len(message["content"].split()) for message in body["messages"])


def _head(content_type: str, framing: str) -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n{framing}\r\nconnection: close\r\n\r\n"
    ).encode()


def _usage(served: Served, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": served.prompt,
        "completion_tokens": completion,
        "total_tokens": served.prompt + completion,
    }


def _choice(body: dict[str, Any], content: str, finish: str | None) -> dict[str, Any]:
    part = "delta" if body.get("stream") else "message"
    return {"choices": [{"index": 0, part: {"content": content}, "finish_reason": finish}]}


def _events(body: dict[str, Any], served: Served, padding: int) -> Iterator[tuple[bytes, int]]:
    """Events of a stream and the tokens that each of them carries."""
    model = body["model"]
    options = body.get("stream_options") or {}
    asked = bool(options.get("include_usage")) and model != "engine-transformers"
    continuous = asked and bool(options.get("continuous_usage_stats")) and model == "engine-vllm"
    chance = random.Random(served.planned)
    done = 0
    while done < served.planned:
        tokens = min(chance.randint(1, 3), served.planned - done)
        done += tokens
        chunk = _choice(body, "x" * padding + f"<{done}>", None)
        if continuous:
            chunk["usage"] = _usage(served, done)
        yield _event(chunk), tokens
    last = _choice(body, "", "length")
    if model == "engine-transformers" or continuous:
        last["usage"] = _usage(served, done)
    yield _event(last), 0
    if asked:
        yield _event({"choices": [], "usage": _usage(served, done)}), 0
    if model != "engine-transformers":
        yield b"data: [DONE]\n\n", 0


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


@asynccontextmanager
async def paced_engine(*, pace_ms: int, padding: int = 0) -> AsyncIterator[PacedEngine]:
    """Serve inside the block, in this event loop."""
    engine = PacedEngine(pace_ms=pace_ms, padding=padding)
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, backlog=512)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        for task in list(engine.tasks):
            task.cancel()
        while engine.tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
