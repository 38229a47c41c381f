"""A client on a raw socket that keeps every byte: the other side of every fault test.

An SDK would hide where an answer was cut. This one decides nothing while it reads; what it was
told, and whether the end of the answer reached it, is read from the bytes afterwards.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from dataclasses import dataclass, field
from typing import Any

_COUNT = re.compile(rb"<(\d+)>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    Attributes:
        leaves_after: close the connection once so many bytes of the answer are here.
    """

    model: str
    prompt: int
    tokens: int
    stream: bool = True
    wants_usage: bool = False
    leaves_after: int | None = None

    def body(self) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": " ".join(["word"] * self.prompt)}],
            "max_tokens": self.tokens,
        }
        if self.stream:
            body["stream"] = True
            if self.wants_usage:
                body["stream_options"] = {"include_usage": True}
        return json.dumps(body).encode()


@dataclass(slots=True)
class Told:
    """What reached one client, as it came over the wire."""

    ask: Ask
    wire: bytearray = field(default_factory=bytearray)
    left: bool = False

    @property
    def request_id(self) -> str | None:
        found = re.search(rb"x-steelyard-request-id: (req_[0-9a-f]{32})\r\n", self._split()[0])
        return found[1].decode() if found else None

    @property
    def status(self) -> int | None:
        head = self._split()[0]
        return int(head.split(b" ", 2)[1]) if head else None

    @property
    def delivered(self) -> int:
        """Tokens in what is here complete: events of a stream, or the whole body."""
        counts = [int(found) for event in self._events() for found in _COUNT.findall(event)]
        assert counts == sorted(counts)
        return counts[-1] if counts else 0

    @property
    def ended(self) -> bool:
        """What a client takes for the end has reached it."""
        head, rest = self._split()
        if not self.ask.stream:
            length = re.search(rb"content-length: (\d+)\r\n", head)
            return length is not None and len(rest) == int(length[1])
        if self.ask.model == "engine-transformers":
            return any(b'"finish_reason":"length"' in event for event in self._events())
        return any(event == b"data: [DONE]" for event in self._events())

    @property
    def usage(self) -> tuple[int, int] | None:
        """(prompt, completion) tokens as the client was told."""
        for event in reversed(self._events()):
            if b'"usage"' in event:
                usage = json.loads(event.removeprefix(b"data: "))["usage"]
                return usage["prompt_tokens"], usage["completion_tokens"]
        return None

    def _split(self) -> tuple[bytes, bytes]:
        head, separator, rest = bytes(self.wire).partition(b"\r\n\r\n")
        return (head + b"\r\n", rest) if separator else (b"", b"")

    def _events(self) -> list[bytes]:
        rest = self._split()[1]
        if not self.ask.stream:
            return [rest] if self.ended else []
        return _unchunked(rest).split(b"\n\n")[:-1]


def _unchunked(content: bytes) -> bytes:
    """The payload of chunked framing, as far as it is here."""
    payload = bytearray()
    while content:
        size, separator, content = content.partition(b"\r\n")
        if not separator or int(size, 16) == 0:
            break
        payload += content[: int(size, 16)]
        content = content[int(size, 16) + 2 :]
    return bytes(payload)


class Client:
    """One connection for one request; `pause` it to stop reading."""

    def __init__(self, port: int, key: str, ask: Ask, *, receive_buffer: int | None = None) -> None:
        self._port = port
        self._key = key
        self._receive_buffer = receive_buffer
        self._reads = asyncio.Event()
        self._reads.set()
        self.told = Told(ask)

    def pause(self) -> None:
        self._reads.clear()

    def resume(self) -> None:
        self._reads.set()

    async def run(self) -> Told:
        """Send the request and read to the end, whatever kind of end that is."""
        content = self.told.ask.body()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nconnection: close\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        with socket.socket() as connection:
            connection.setblocking(False)
            if self._receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            try:
                await loop.sock_connect(connection, ("127.0.0.1", self._port))
                await loop.sock_sendall(connection, head.encode() + content)
                await self._read(loop, connection)
            except OSError:
                pass  # the proxy was killed: what is here is here
        return self.told

    async def _read(self, loop: asyncio.AbstractEventLoop, connection: socket.socket) -> None:
        told, leaves_after = self.told, self.told.ask.leaves_after
        while True:
            await self._reads.wait()
            if leaves_after is not None and len(told.wire) >= leaves_after:
                told.left = True
                return
            piece = await loop.sock_recv(connection, 65536)
            if not piece:
                return
            told.wire += piece
