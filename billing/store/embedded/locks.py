"""File locks of the embedded server: `flock`, which the kernel drops however a process ends.

Decides how to wait and for how long; what each lock means is said where it is taken.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from billing.errors import EmbeddedServerError

POLL_MS = 20


def now_ms() -> int:
    """Milliseconds of the monotonic clock, for deadlines only."""
    return time.monotonic_ns() // 1_000_000


def pause() -> None:
    """Wait one polling interval."""
    time.sleep(POLL_MS / 1000)  # float: time.sleep wants seconds


def open_lock(path: Path) -> int:
    """Open a lock file, making it if absent, readable by its owner alone."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock if nobody is in the way.

    A descriptor that held the lock in the other mode has lost it when this returns False.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(path: Path, *, shared: bool, within_ms: int) -> int:
    """Return a descriptor that holds the lock.

    Raises:
        EmbeddedServerError: somebody else held it for longer than `within_ms`.
    """
    descriptor = open_lock(path)
    deadline = now_ms() + within_ms
    while not try_lock(descriptor, shared=shared):
        if now_ms() > deadline:
            os.close(descriptor)
            raise EmbeddedServerError(
                f"another program is still starting or stopping the server in {path.parent}",
                remedy="wait for it, or end it, and start again",
            )
        pause()
    return descriptor


@contextmanager
def locked(path: Path, *, within_ms: int) -> Generator[None]:
    """Hold the exclusive lock for the length of a with block."""
    descriptor = wait_for_lock(path, shared=False, within_ms=within_ms)
    try:
        yield
    finally:
        os.close(descriptor)
