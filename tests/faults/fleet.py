"""Proxy processes of one host: a journal folder, a writer and a database for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from billing.cli.processes import Child, free_port, wait_until_ready
from tests.faults.stream_client import Ask, Client
from tests.system import System


@dataclass(slots=True)
class ProxyFleet:
    """`size` processes, numbered from 0; a killed one starts again on its own port.

    Attributes:
        environment: beside what every process of the system gets.
    """

    system: System
    size: int
    environment: dict[str, str] = field(default_factory=dict[str, str])
    ports: list[int] = field(default_factory=list[int])
    _clients: int = 0

    def __post_init__(self) -> None:
        self.ports = [free_port() for _ in range(self.size)]

    def start(self) -> None:
        """Start every process that does not run, side by side, and wait for all of them."""
        self.spawn()
        for number in range(self.size):
            wait_until_ready(self.system.children[f"proxy-{number}"], f"{self.url(number)}/healthz")

    def spawn(self) -> None:
        """Start every process that does not run, and wait for none."""
        for number in range(self.size):
            if (name := f"proxy-{number}") not in self.system.children:
                child = Child(
                    name=name,
                    module="api.proxy",
                    environment={
                        **self.system.environment,
                        **self.environment,
                        "STEELYARD_PROXY_PORT": str(self.ports[number]),
                    },
                    log=self.system.log,
                )
                self.system.children[name] = child
                child.start()

    def url(self, number: int) -> str:
        return f"http://127.0.0.1:{self.ports[number]}"

    def kill_9(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.system.kill_9(f"proxy-{number}")

    def stop(self) -> None:
        """End them all in order."""
        for number in range(self.size):
            if child := self.system.children.pop(f"proxy-{number}", None):
                child.stop()

    def client(self, ask: Ask, *, receive_buffer: int | None = None) -> Client:
        """A client of the next process in turn."""
        port = self.ports[self._clients % self.size]
        self._clients += 1
        return Client(port, self.system.key, ask, receive_buffer=receive_buffer)
