"""A transport that sends a response's head together with the first bytes of its body.

Decides: one thing, that a head waits for the write that follows it. uvicorn writes them one after
the other, and a write of uvloop is a system call and a wake-up of the client at once: together
they cost as much as everything else that uvicorn does for a request.
"""

from __future__ import annotations

import asyncio
from typing import Any

_FINAL_HEADS = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5")


class CorkedTransport(asyncio.Transport):
    """Wraps the real transport of one client connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head: bytes | None = None
        self._expects_head = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, unless it is a head: that waits for the next write."""
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        elif self._expects_head and isinstance(data, bytes) and data.startswith(_FINAL_HEADS):
            self._head = data
            self._expects_head = False
        else:
            self._transport.write(data)

    def uncork(self) -> None:
        """A response is complete: send its head if no body came, and expect the next head."""
        self._expects_head = True
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken."""
        return self._transport.get_write_buffer_size() + len(self._head or b"")

    def close(self) -> None:
        """Close after everything written has left."""
        self.uncork()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is being closed."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the real transport knows."""
        return self._transport.get_extra_info(name, default)
