"""Being asked to stop by a signal.

Decides: that SIGTERM and SIGINT stop a program which waits in its main thread, at whatever
instant they come. Does not decide what a program does before it ends.
"""

from __future__ import annotations

import queue
import signal
import threading
from types import FrameType


class StopSignal(threading.Event):
    """An event that a handler of signals may set, in the very thread that waits for it.

    `threading.Event` takes a lock in `set` and in `wait`: a signal that comes while the waiting
    thread has it would wait for that thread, which is itself, for ever. A `SimpleQueue` is made
    for being interrupted.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Ask to stop."""
        self._asked.put(None)

    def is_set(self) -> bool:
        """Whether it was asked to stop."""
        return not self._asked.empty()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for that, at most so many seconds; whether it was asked."""
        try:
            self._asked.get(timeout=timeout)
        except queue.Empty:
            return False
        self._asked.put(None)
        return True


def stop_signal() -> StopSignal:
    """What SIGTERM and SIGINT set from now on."""
    stopping = StopSignal()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping
