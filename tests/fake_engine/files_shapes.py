"""A backend that keeps files, batches and responses, over HTTP/1.1 by hand, in OpenAI's shapes.

It knows no tenants and checks no key: whoever names an id gets the object.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CREATED_AT = 1_794_700_000
USAGE = {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}


@dataclass(slots=True)
class Asked:
    """One request as the backend saw it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(slots=True)
class KeepingEngine:
    """A server; what it has is in its members.

    Attributes:
        name: part of every id that it issues.
        purposes: of files that are not for batches, by id.
        ends_at: what it tells as the end of each file; None: nothing.
        files: contents by id; batches, responses: objects by id, as they are answered.
        issues: the id of what is made next, in place of one of its own.
        status: answered to every request instead, if not 200.
        breaks_at: contents break off after so many bytes.
        reads: while it is not set, bodies are not read.
        delay: seconds before an answer.
        second_id: streams change their id on the way.
        pace: seconds between two events of a stream.
        runs_batches: it takes new ones.
    """

    name: str = "a"
    port: int = 0
    asked: list[Asked] = field(default_factory=list[Asked])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    batches: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    responses: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    issues: str | None = None
    status: int = 200
    breaks_at: int | None = None
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    delay: float = 0
    second_id: bool = False
    pace: float = 0
    runs_batches: bool = True
    ends_at: object = None
    purposes: dict[str, str] = field(default_factory=dict[str, str])
    received: int = 0
    issued: int = 0
    writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                pairs = (each.partition(":") for each in fields)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await self._body(reader, headers)
                method, target, _ = line.split(" ")
                self.asked.append(Asked(method, target, headers, body))
                if not await self._answer(self.asked[-1], writer):
                    break
        self.writers.discard(writer)
        writer.transport.abort()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if "chunked" in headers.get("transfer-encoding", ""):
            parts: list[bytes] = []
            while size := int(await reader.readline(), 16):
                parts.append(await self._read(reader, size))
                await reader.readexactly(2)
            await reader.readexactly(2)
            return b"".join(parts)
        return await self._read(reader, int(headers.get("content-length", 0)))

    async def _read(self, reader: asyncio.StreamReader, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            await self.reads.wait()
            parts.append(await reader.read(min(size, 1 << 16)))
            if not parts[-1]:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(parts[-1])
            self.received += len(parts[-1])
        return b"".join(parts)

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        status, body, kind = 404, b'{"error": {"message": "gone"}}', "application/json"
        if self.status != 200:
            status = self.status
        elif (found := self._found(asked)) is not None:
            status, (body, kind) = 200, found
        await asyncio.sleep(self.delay)
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n"
            f"content-length: {len(body)}\r\nx-engine: {self.name}\r\n\r\n".encode()
        )
        if self.breaks_at is not None and asked.path.endswith("/content"):
            writer.write(body[: self.breaks_at])
            await writer.drain()
            return False
        pieces = [body]
        if self.pace and kind == "text/event-stream":
            pieces = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self.pace)
        return True

    def _found(self, asked: Asked) -> tuple[bytes, str] | None:
        _, _, kind, *rest = asked.path.partition("?")[0].split("/")
        if (asked.method, kind, rest) == ("POST", "responses", []):
            return self._respond(json.loads(asked.body))
        if kind == "files" and rest[1:] == ["content"] and rest[0] in self.files:
            return self.files[rest[0]], "application/octet-stream"
        answers = {"files": self._of_files, "batches": self._of_batches, "chat": self._of_chat}
        found = answers.get(kind, self._of_responses)(asked, rest)
        # Indented, so that nobody gets away with encoding it again.
        return None if found is None else (json.dumps(found, indent=1).encode(), "application/json")

    def _of_files(self, asked: Asked, rest: list[str]) -> dict[str, Any] | None:
        match asked.method, rest:
            case "POST", []:
                return self._file(self._kept(uploaded(asked.body)))
            case "GET", [name] if name in self.files:
                return self._file(name)
            case "DELETE", [name] if self.files.pop(name, None) is not None:
                return {"id": name, "object": "file", "deleted": True}
            case _:
                return None

    def _of_batches(self, asked: Asked, rest: list[str]) -> dict[str, Any] | None:
        match asked.method, rest:
            case "POST", [] if self.runs_batches:
                return self._run(json.loads(asked.body))
            case "GET", []:
                newest = list(reversed(self.batches.values()))
                return {"object": "list", "data": newest, "has_more": False}
            case "GET", [name]:
                return self.batches.get(name)
            case "POST", [name, "cancel"] if name in self.batches:
                self.batches[name]["status"] = "cancelling"
                return self.batches[name]
            case _:
                return None

    def _of_responses(self, asked: Asked, rest: list[str]) -> dict[str, Any] | None:
        match asked.method, rest:
            case ("GET", [name]) | ("POST", [name, "cancel"]):
                return self.responses.get(name)
            case "GET", [name, "input_items"] if name in self.responses:
                return {"object": "list", "data": []}
            case "DELETE", [name] if self.responses.pop(name, None) is not None:
                return {"id": name, "object": "response", "deleted": True}
            case _:
                return None

    def _of_chat(self, asked: Asked, rest: list[str]) -> dict[str, Any] | None:
        del asked, rest
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return {"id": "c-1", "choices": [{"message": {"content": "x"}}], "usage": usage}

    def _issue(self, prefix: str) -> str:
        self.issued += 1
        issued, self.issues = self.issues, None
        return issued or f"{prefix}{self.name}{self.issued}"

    def _kept(self, content: bytes) -> str:
        name = self._issue("file-")
        self.files[name] = content
        return name

    def _file(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": CREATED_AT,
            "filename": "x.jsonl",
            "purpose": self.purposes.get(name, "batch"),
            "status": "processed",
            **({} if self.ends_at is None else {"expires_at": self.ends_at}),
        }

    def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        name = self._issue("batch_")
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body.get("completion_window", "24h"),
            "status": "in_progress",
            "created_at": CREATED_AT,
            "output_file_id": None,
            "error_file_id": None,
        }
        return self.batches[name]

    def end(self, batch_id: str, output: bytes) -> str:
        """A batch has run; the id of its output."""
        name = self._kept(output)
        self.batches[batch_id].update(
            status="completed", output_file_id=name, completed_at=CREATED_AT + 60
        )
        return name

    def _respond(self, body: dict[str, Any]) -> tuple[bytes, str]:
        name = self._issue("resp_")
        made = {"id": name, "object": "response", "status": "completed", "output": []}
        if body.get("store", True):
            self.responses[name] = made
        if not body.get("stream"):
            return json.dumps({**made, "usage": USAGE}, indent=1).encode(), "application/json"
        last = f"{name}x" if self.second_id else name
        events = [
            {"type": "response.created", "response": {"id": name}},
            {"type": "response.output_text.delta", "delta": "four"},
            {"type": "response.output_text.delta", "delta": "five"},
            {"type": "response.completed", "response": {"id": last, "usage": USAGE}},
        ]
        lines = (f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
        return "".join(lines).encode(), "text/event-stream"


def uploaded(form: bytes) -> bytes:
    """The content of the file in a form."""
    boundary = form.split(b"\r\n", 1)[0]
    for part in form.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    raise AssertionError("no file in the form")


@asynccontextmanager
async def keeping_engine(name: str = "a") -> AsyncIterator[KeepingEngine]:
    """A backend on a port of its own."""
    engine = KeepingEngine(name=name)
    engine.reads.set()
    server = await asyncio.start_server(engine.connected, "127.0.0.1", 0, limit=1 << 20)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        engine.reads.set()
        writers = list(engine.writers)
        for writer in writers:
            writer.transport.abort()
        for writer in writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
