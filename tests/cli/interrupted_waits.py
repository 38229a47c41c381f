"""`python -m tests.cli.interrupted_waits`: SIGTERM at every line of a wait, one after the other.

A wait that never ends hangs this process; its parent sees to it. It prints how many lines there
are.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

from billing.stop_signal import stop_signal


def lines_until_stopped(at: int) -> int:
    """Lines that ran, SIGTERM coming before one of them, until the wait knows of it."""
    stopping, lines = stop_signal(), 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        del frame, argument
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == at:
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        while not stopping.is_set():
            if stopping.wait(0.001):
                break
    finally:
        sys.settrace(None)
    assert stopping.is_set()
    return lines


def main() -> None:
    """Interrupt at one line after the other."""
    for at in range(1, 41):
        lines_until_stopped(at)
    print(40)


if __name__ == "__main__":
    main()
