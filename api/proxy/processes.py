"""Several processes of the data plane behind one port, and the one that watches over them.

Decides: every process listens on the port itself (SO_REUSEPORT: the kernel deals connections out),
with a journal, leases and counters of its own; one that ends is started again, at first at once
and then with growing pauses; SIGTERM goes to all of them. The watcher serves nothing and holds
nothing that could be lost: it only keeps the port while no process listens.

Does not decide how a process stops, or what it owes to the journal: see `server.py`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Final

import structlog

from billing.errors import ConfigurationError
from billing.stop_signal import stop_signal

log = structlog.get_logger("steelyard.proxy")

ONE_OF_SEVERAL: Final = "--one-of-several"
"""Argument of a process that shares its port."""

LOOK_MS: Final = 100
PAUSE_MS_MIN: Final = 250
PAUSE_MS_MAX: Final = 30_000
STEADY_MS: Final = 60_000
"""A process that ran this long starts again at once."""

FIRST_START_MS: Final = 10_000
CLOSE_MS: Final = 10_000
"""How long a process may take to end once its streams have ended or were cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """What is to run.

    Attributes:
        port: 0 takes a free one for all.
        metrics_port: of the first process; the others take the next ones. 0: nowhere.
    """

    size: int
    host: str
    port: int
    metrics_port: int
    drain_ms: int


@dataclass(slots=True, kw_only=True)
class _Process:
    """One of them, by its number from 0.

    Attributes:
        falls: how often in a row it ended before it was steady.
        next_start_ms: when it may be started again, on the monotonic clock.
    """

    number: int
    running: subprocess.Popen[bytes] | None = None
    started_ms: int = 0
    next_start_ms: int = 0
    falls: int = 0


@dataclass(slots=True)
class _Watch:
    group: ProcessGroup
    port: int
    stopping: threading.Event
    processes: list[_Process] = field(default_factory=list[_Process])
    began_ms: int = 0

    def run(self) -> None:
        self.began_ms = _now_ms()
        self.processes = [_Process(number=number) for number in range(self.group.size)]
        try:
            while not self.stopping.is_set():
                for process in self.processes:
                    self._look(process)
                self.stopping.wait(LOOK_MS / 1000)  # float: it takes seconds
        finally:
            self._stop()

    def _look(self, process: _Process) -> None:
        now_ms = _now_ms()
        if process.running is None:
            if now_ms >= process.next_start_ms:
                process.running, process.started_ms = self._start(process), now_ms
            return
        status = process.running.poll()
        if status is None:
            return
        _let_go(process.running)
        process.running = None
        if status > 0 and now_ms - self.began_ms < FIRST_START_MS:
            raise ConfigurationError(
                f"process {process.number} of the proxy ended while it started",
                remedy="see its message above",
            )
        ran_ms = now_ms - process.started_ms
        process.falls = 0 if ran_ms >= STEADY_MS else process.falls + 1
        pause_ms = pause_before(process.falls)
        process.next_start_ms = now_ms + pause_ms
        log.error(
            "a process of the proxy ended; it is started again",
            process=process.number,
            status=status,
            ran_ms=ran_ms,
            pause_ms=pause_ms,
        )

    def _start(self, process: _Process) -> subprocess.Popen[bytes]:
        metrics_port = self.group.metrics_port and self.group.metrics_port + process.number
        environment = {
            "STEELYARD_PROXY_PORT": str(self.port),
            "STEELYARD_PROXY_METRICS_PORT": str(metrics_port),
        }
        started = subprocess.Popen(
            # The pipe tells a process that its watcher is gone, however it ended.
            [sys.executable, "-m", "billing.cli.child", "api.proxy", ONE_OF_SEVERAL],
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        log.info(
            "process of the proxy starts",
            process=process.number,
            pid=started.pid,
            port=self.port,
            metrics_port=metrics_port or None,
        )
        return started

    def _stop(self) -> None:
        """Ask all of them at once, so that their streams end side by side; then wait for each."""
        running = [each.running for each in self.processes if each.running is not None]
        for process in running:
            process.terminate()
        deadline_ms = _now_ms() + self.group.drain_ms + CLOSE_MS
        for process in running:
            left_ms = max(0, deadline_ms - _now_ms())
            try:
                process.wait(left_ms / 1000)  # float: it takes seconds
            except subprocess.TimeoutExpired:
                process.kill()
                log.error(  # noqa: TRY400  # the traceback of a wait says nothing
                    "a process of the proxy did not stop; it was killed", pid=process.pid
                )
            _let_go(process)


def pause_before(falls: int) -> int:
    """Milliseconds until a process is started again that ended so often in a row."""
    if falls <= 1:
        return 0
    return int(min(PAUSE_MS_MAX, PAUSE_MS_MIN << min(falls - 2, 16)))


def run_processes(group: ProcessGroup) -> None:
    """Run them until SIGTERM or SIGINT, and until all of them have stopped in order.

    Raises:
        ConfigurationError: the port cannot be used, or a process ended while it first started.
    """
    with kept_port(group) as kept:
        _Watch(group, kept.getsockname()[1], stop_signal()).run()


def kept_port(group: ProcessGroup) -> socket.socket:
    """A socket that has the port and never listens: nobody else gets it between two starts.

    Raises:
        ConfigurationError: somebody has it.
    """
    family = socket.AF_INET6 if ":" in group.host else socket.AF_INET
    kept = socket.socket(family, socket.SOCK_STREAM)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without this look a second group would share the port, and the tenants, of another.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((group.host, group.port))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Connections of an earlier start may still linger; after the bind nobody may be let in.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((group.host, group.port))
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        kept.close()
        raise ConfigurationError(
            f"The proxy cannot listen on {group.host} port {group.port}: {error.strerror}.",
            field="STEELYARD_PROXY_PORT",
            remedy="Stop what listens there, or choose another port.",
        ) from None
    return kept


def _let_go(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
