"""`steelyard up` as a user starts it, and everything that belongs to it, found from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from billing.cli.processes import free_port

STEELYARD = Path(sys.executable).with_name("steelyard")
PATIENCE_SECONDS = 180
READY = "Ctrl-C stops everything"

Value = TypeVar("Value")


@dataclass(slots=True)
class Up:
    """One deployment's folder and ports; started and ended any number of times.

    Attributes:
        home: holds the data folder; the embedded server's own user can pass through it.
        seen: requests that every later start must still know.
    """

    home: Path
    proxy_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    @property
    def output(self) -> str:
        """What the running start has printed so far."""
        return self._output_path().read_text()

    def _output_path(self) -> Path:
        return self.home / f"up-{self.starts}.txt"

    def environment(self, **extra: str) -> dict[str, str]:
        plain = {
            name: value for name, value in os.environ.items() if not name.startswith("STEELYARD_")
        }
        return {
            **plain,
            "STEELYARD_DATA_DIR": str(self.data_dir),
            "STEELYARD_PROXY_PORT": str(self.proxy_port),
            "STEELYARD_PROXY_METRICS_PORT": "0",
            "STEELYARD_API_PORT": str(self.api_port),
            **extra,
        }

    def start(self, *arguments: str, done: str = READY, **extra: str) -> str:
        """Start it and wait until it has printed `done`; what it has printed then."""
        self.starts += 1
        with self._output_path().open("wb") as output:
            self.process = self._popen(output, *arguments, **extra)
        process = self.process
        text = eventually(
            lambda: self.output, lambda text: done in text or process.poll() is not None
        )
        assert process.poll() is None, text
        return text

    def _popen(self, output: IO[bytes], *arguments: str, **extra: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [STEELYARD, "up", *arguments],
            cwd=self.home,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def refused(self, **extra: str) -> str:
        """Start another one that must end by itself; what it says."""
        ended = subprocess.run(
            [STEELYARD, "up"],
            cwd=self.home,
            env=self.environment(**extra),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ended.returncode == 3, ended
        return ended.stderr.decode()

    def signal(self, number: int) -> int:
        """Signal the command itself, as a terminal or a user would; its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def processes(self) -> dict[int, str]:
        """Every process that has the data folder in its command line or environment."""
        found: dict[int, str] = {}
        needle = str(self.data_dir).encode()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            try:
                command = folder.joinpath("cmdline").read_bytes()
                if needle in command or needle in folder.joinpath("environ").read_bytes():
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode()
            except OSError:
                continue  # it ended meanwhile, or is somebody else's
        return found

    def wait_until_nothing_runs(self) -> None:
        eventually(self.processes, lambda found: not found)

    def kill_9_everything(self) -> None:
        """What a power cut does to processes: children, servers, all of them at once."""
        while found := self.processes():
            # All stand still before the first one dies: nobody sees another go.
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in found:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            if self.process is not None:
                self.process.wait()
            time.sleep(0.02)


def eventually(read: Callable[[], Value], done: Callable[[Value], bool]) -> Value:
    """Read until `done`; fails with the last value after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done(value := read()):
        assert time.monotonic() < deadline, value
        time.sleep(0.05)
    return value
