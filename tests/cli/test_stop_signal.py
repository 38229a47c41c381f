"""A program that is asked to stop stops, at whatever instant it is asked."""

from __future__ import annotations

import subprocess
import sys


def test_a_stop_at_any_line_of_a_wait_is_heard() -> None:
    """A handler that waits for a lock of the thread that it interrupted would wait for ever."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.interrupted_waits"],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        text=True,
    )
    assert done.stdout == "40\n"
