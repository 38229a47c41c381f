"""A backend that runs batches, over HTTP: files, batches, and results in the shapes of OpenAI.

Tests say how a batch ends. Whatever is uploaded stays in memory; nothing checks a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

CREATED_AT = 1_794_700_000


def answered_line(
    custom_id: str,
    *,
    model: str = "tiny",
    prompt: int = 10,
    cached: int = 0,
    output: int = 5,
    text: str = "four",
) -> dict[str, Any]:
    """A line of an output file, of a chat completion."""
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    body = {
        "id": f"chatcmpl-{custom_id}",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        "usage": usage,
    }
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": {"status_code": 200, "request_id": f"req_{custom_id}", "body": body},
        "error": None,
    }


def failed_line(custom_id: str, *, status: int = 400) -> dict[str, Any]:
    """A line of an error file whose request the model refused."""
    body = {"error": {"message": "no", "type": "invalid_request_error"}}
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": "req_1", "body": body},
        "error": None,
    }


def unbegun_line(custom_id: str) -> dict[str, Any]:
    """A line of an error file whose request was never begun."""
    return {
        "id": f"batch_req_{custom_id}",
        "custom_id": custom_id,
        "response": None,
        "error": {"code": "batch_expired", "message": "not executed before the window ended"},
    }


@dataclass(slots=True)
class BatchEngine:
    """A server; what it has is in its members.

    Attributes:
        files: contents by id.
        batches: batch objects by id, as they are answered.
        status: answered to every request instead, if not 200.
        breaks_at: a file breaks off after so many bytes, without an end.
        asked: (method, path) of every request.
    """

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    batches: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    status: int = 200
    breaks_at: int | None = None
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def submit(self, batch_id: str = "batch_1", *, requests: int = 0) -> str:
        """A batch that goes on."""
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-in",
            "completion_window": "24h",
            "status": "in_progress",
            "created_at": CREATED_AT,
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": requests, "completed": 0, "failed": 0},
        }
        return batch_id

    def end(
        self,
        batch_id: str = "batch_1",
        *,
        output: Sequence[dict[str, Any] | bytes] = (),
        errors: Sequence[dict[str, Any] | bytes] = (),
        status: str = "completed",
        at: int = CREATED_AT + 60,
    ) -> None:
        """End it, with the lines of its two files; bytes stand as they are."""
        batch = self.batches[batch_id]
        for member, lines in (("output_file_id", output), ("error_file_id", errors)):
            if lines:
                file_id = batch[member] = f"file-{member[:3]}-{batch_id}"
                self.files[file_id] = b"".join(_written(line) for line in lines)
        counts = {"completed": len(output), "failed": len(errors)}
        batch.update({"status": status, f"{status}_at": at})
        batch["request_counts"] = {"total": len(output) + len(errors), **counts}

    def answer(self, path: str) -> tuple[int, bytes]:
        """What a GET is answered."""
        _, _, kind, *rest = path.partition("?")[0].split("/")
        found: bytes | None = None
        if kind == "batches" and not rest:
            listed = {"data": list(reversed(self.batches.values())), "has_more": False}
            return self.status, json.dumps(listed).encode()
        id_, *rest = rest
        if kind == "batches" and id_ in self.batches:
            found = json.dumps(self.batches[id_]).encode()
        elif kind == "files" and rest == ["content"]:
            found = self.files.get(id_)
        if self.status != 200 or found is None:
            return (self.status if self.status != 200 else 404), b'{"error": {"message": "no"}}'
        return 200, found


def _written(line: dict[str, Any] | bytes) -> bytes:
    return (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"


@contextmanager
def batch_engine() -> Iterator[BatchEngine]:
    """Serve inside the block."""
    engine = BatchEngine()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            engine.asked.append(("GET", self.path))
            status, body = engine.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            breaks = engine.breaks_at if self.path.endswith("/content") else None
            self.wfile.write(body[:breaks])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        engine.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
