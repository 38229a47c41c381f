"""Starts, watches and stops the child processes of `steelyard up` and `steelyard demo`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from billing.errors import ConfigurationError

READY_SECONDS = 30
STOP_SECONDS = 20
POLL_SECONDS = 1
RESTARTS_MAX = 5
RESTART_WINDOW_SECONDS = 60
PORTS_TRIED = 16


@dataclass(slots=True)
class Child:
    """One child process.

    Attributes:
        name: what people read in messages.
        module: run with `python -m`.
        log: where its output goes; None: to ours.
        stop_ms: how long it may take to end in order.
    """

    name: str
    module: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    log: IO[bytes] | None = None
    stop_ms: int = STOP_SECONDS * 1000
    _process: subprocess.Popen[bytes] | None = None
    _started_at: list[int] = field(default_factory=list[int])

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches it through us, in order."""
        self._started_at.append(time.monotonic_ns())
        self._process = subprocess.Popen(
            # -P: no module is taken from the folder that the operator happens to stand in.
            [sys.executable, "-P", "-m", "billing.cli.child", self.module, *self.arguments],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log and subprocess.STDOUT,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(self.stop_ms / 1000)  # float: it takes seconds
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    @property
    def exit_status(self) -> int | None:
        """How it ended, or None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int | None:
        """Its process id while it has one."""
        return None if self._process is None else self._process.pid

    def may_restart(self) -> bool:
        """False once it has ended too often in a short time."""
        since = time.monotonic_ns() - RESTART_WINDOW_SECONDS * 1_000_000_000
        self._started_at = [at for at in self._started_at if at >= since]
        return len(self._started_at) <= RESTARTS_MAX


def wait_until_ready(child: Child, url: str) -> None:
    """Wait until a child answers on a URL.

    Raises:
        ConfigurationError: it ended, or did not answer in time.
    """
    for _ in range(READY_SECONDS * 20):
        if child.exit_status is not None:
            raise ConfigurationError(
                f"{child.name} ended while it started", remedy=_last_words(child)
            )
        if answers(url):
            return
        time.sleep(POLL_SECONDS / 20)  # float: sleep takes seconds
    raise ConfigurationError(f"{child.name} does not answer", remedy=_last_words(child))


def _last_words(child: Child) -> str:
    """The last line of a child's log, which says what is wrong."""
    if child.log is None:
        return "see its message above"
    lines = Path(child.log.name).read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"see {child.log.name}"


def answers(url: str) -> bool:
    """Whether something answers 200 on a URL of this machine."""
    try:
        with urllib.request.urlopen(url, timeout=POLL_SECONDS) as answer:  # noqa: S310  # our own
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def require_free(host: str, port: int, *, setting: str) -> None:
    """Check that a port can be listened on.

    Raises:
        ConfigurationError: something else has it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on port {port}: {os.strerror(error.errno or 0).lower()}",
                field=setting,
                remedy=f"stop what uses it, or set {setting} to another port",
            ) from None


def free_ports(host: str, first: int, count: int, *, setting: str) -> range:
    """Ports in a row that are free now, from the first one on or a few behind it.

    Raises:
        ConfigurationError: there are none.
    """
    for start in range(first, min(first + PORTS_TRIED, (1 << 16) - count)):
        ports = range(start, start + count)
        try:
            for port in ports:
                require_free(host, port, setting=setting)
        except ConfigurationError:
            continue
        return ports
    raise ConfigurationError(
        f"no {count} ports in a row are free from {first} on",
        field=setting,
        remedy=f"set {setting} to another port, or to 0",
    )


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
