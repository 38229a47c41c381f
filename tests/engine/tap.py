"""A wire tap in front of the engine: what it said it counted, whoever was listening.

It relays bytes and keeps a copy of what the engine answered. The proxy may hide usage from a client
that did not ask for it, so the client cannot be the witness; the tap is. The engine's own id of an
answer reaches the client unchanged, which is how the two are matched.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_PIECE = 65536
_ANSWER = re.compile(rb'"id":"([^"]+)"|"usage":(\{[^{}]*\})')


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What the engine reported for one answer, in tokens."""

    prompt: int
    completion: int


@dataclass(slots=True, kw_only=True)
class Tap:
    """A running tap.

    Attributes:
        base_url: where it listens, without `/v1`.
        answers: bytes that the engine sent, one entry per connection.
    """

    base_url: str
    answers: list[bytearray] = field(default_factory=list)

    def reported(self) -> dict[str, Reported]:
        """Usage by the engine's id of the answer."""
        found: dict[str, Reported] = {}
        for answer in self.answers:
            current = ""
            for match in _ANSWER.finditer(bytes(answer)):
                if match[1]:
                    current = match[1].decode()
                    continue
                usage = json.loads(match[2])
                found[current] = Reported(
                    prompt=usage["prompt_tokens"], completion=usage["completion_tokens"]
                )
        return found


@contextmanager
def running_tap(target: str) -> Iterator[Tap]:
    """Listen on a free loopback port and relay to `target` (`http://host:port`)."""
    address = urlsplit(target)
    assert address.hostname is not None
    assert address.port is not None
    upstream = (address.hostname, address.port)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer = bytearray()
            tap.answers.append(answer)
            client: socket.socket = self.request
            with socket.create_connection(upstream) as engine:
                asking = threading.Thread(target=_relay, args=(client, engine, None))
                asking.start()
                _relay(engine, client, answer)
                asking.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with Server(("127.0.0.1", 0), Relay) as server:
        tap = Tap(base_url=f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield tap
        finally:
            server.shutdown()
            thread.join()


def _relay(source: socket.socket, sink: socket.socket, copy: bytearray | None) -> None:
    """Relay until either side is done, then close both directions: a cut must not hang."""
    try:
        while piece := source.recv(_PIECE):
            if copy is not None:
                copy.extend(piece)
            sink.sendall(piece)
    except OSError:
        pass  # the other side left in the middle, which is what a cancelled stream looks like
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue  # already closed
