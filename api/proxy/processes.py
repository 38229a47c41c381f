"""Several processes of the data plane behind one port, and the one that watches over them.

Decides: every process listens on the port itself (SO_REUSEPORT: the kernel deals connections out),
with a journal, leases and counters of its own; one that ends, or that the host cannot start, is
started again, at first at once and then with growing pauses; SIGTERM goes to all of them. One that
ends with an error before it ever listened cannot work as configured, and ends the group, however
long it took. The watcher serves nothing and holds nothing that could be lost: it only keeps the
port while no process listens.

Does not decide how a process stops, or what it owes to the journal: see `server.py`.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from billing.errors import ConfigurationError
from billing.stop_signal import stop_signal

log = structlog.get_logger("steelyard.proxy")

ONE_OF_SEVERAL: Final = "--one-of-several"
"""Argument of a process that shares its port."""

_LISTENS: Final = b"1"
LOOK_MS: Final = 100
PAUSE_MS_MIN: Final = 250
PAUSE_MS_MAX: Final = 30_000
STEADY_MS: Final = 60_000
"""A process that ran this long starts again at once."""

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
        line: to its standard input, on which it tells that it listens.
        falls: how often in a row it ended before it was steady, or could not be started.
        listened: it has, since the group was started.
        next_start_ms: when it may be started again, on the monotonic clock.
    """

    number: int
    running: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    listened: bool = False
    started_ms: int = 0
    next_start_ms: int = 0
    falls: int = 0


@dataclass(slots=True)
class _Watch:
    group: ProcessGroup
    port: int
    stopping: threading.Event
    processes: list[_Process] = field(default_factory=list[_Process])

    def run(self) -> None:
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
                self._start(process, now_ms)
            return
        status = process.running.poll()
        if status is None:
            return
        process.listened = process.listened or _has_told(process)
        _let_go(process)
        if status > 0 and not process.listened:
            raise ConfigurationError(
                f"process {process.number} of the proxy ended while it started",
                remedy="see its message above",
            )
        ran_ms = now_ms - process.started_ms
        pause_ms = _put_off(process, now_ms, steady=ran_ms >= STEADY_MS)
        log.error(
            "a process of the proxy ended; it is started again",
            process=process.number,
            status=status,
            ran_ms=ran_ms,
            pause_ms=pause_ms,
        )

    def _start(self, process: _Process, now_ms: int) -> None:
        try:
            self._spawn(process)
        except OSError as error:
            # The host has no room for one more: a reason to wait, none to end the others.
            log.error(  # noqa: TRY400  # the traceback of a fork says nothing
                "a process of the proxy cannot be started; it is tried again",
                process=process.number,
                reason=error.strerror or type(error).__name__,
                pause_ms=_put_off(process, now_ms, steady=False),
            )
        else:
            process.started_ms = now_ms

    def _spawn(self, process: _Process) -> None:
        metrics_port = self.group.metrics_port and self.group.metrics_port + process.number
        environment = {
            "STEELYARD_PROXY_PORT": str(self.port),
            "STEELYARD_PROXY_METRICS_PORT": str(metrics_port),
        }
        # The line also tells a process that its watcher is gone, however it ended.
        line, theirs = socket.socketpair()
        with theirs:
            try:
                process.running = subprocess.Popen(
                    # -P: no module is taken from the folder that it was started in.
                    [sys.executable, "-P", "-m", "billing.cli.child", "api.proxy", ONE_OF_SEVERAL],
                    stdin=theirs.fileno(),
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
            except BaseException:
                line.close()
                raise
        process.line = line
        log.info(
            "process of the proxy starts",
            process=process.number,
            pid=process.running.pid,
            port=self.port,
            metrics_port=metrics_port or None,
        )

    def _stop(self) -> None:
        """Ask all of them at once, so that their streams end side by side; then wait for each."""
        for process in self.processes:
            if process.running is not None:
                process.running.terminate()
        deadline_ms = _now_ms() + self.group.drain_ms + CLOSE_MS
        for process in self.processes:
            if process.running is None:
                continue
            left_ms = max(0, deadline_ms - _now_ms())
            try:
                process.running.wait(left_ms / 1000)  # float: it takes seconds
            except subprocess.TimeoutExpired:
                process.running.kill()
                log.error(  # noqa: TRY400  # the traceback of a wait says nothing
                    "a process of the proxy did not stop; it was killed", pid=process.running.pid
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
        ConfigurationError: the port cannot be used, or a process ended before it ever listened.
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


def tell_listening() -> None:
    """Tell the watcher that this process listens; without one, nobody."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(0).st_mode):
            os.write(0, _LISTENS)


def _has_told(process: _Process) -> bool:
    if process.line is not None:
        with suppress(OSError):  # nothing was told
            return bool(process.line.recv(1, socket.MSG_DONTWAIT))
    return False


def _let_go(process: _Process) -> None:
    if process.running is not None:
        process.running.wait()
    if process.line is not None:
        process.line.close()
    process.running = process.line = None


def _put_off(process: _Process, now_ms: int, *, steady: bool) -> int:
    """Milliseconds until it is started again."""
    process.falls = 0 if steady else process.falls + 1
    pause_ms = pause_before(process.falls)
    process.next_start_ms = now_ms + pause_ms
    return pause_ms


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
