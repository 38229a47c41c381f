"""Runs a module as a child that ends when its parent does, however the parent ends.

The parent holds the other end of the child's standard input. When the parent is gone, even by
kill -9, the pipe or socket closes, and the child is asked to stop in order; if it does not, it is
killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress

GRACE_SECONDS = 20


def main() -> None:
    """Run the module named by the first argument with the arguments after it."""
    module, *arguments = sys.argv[1:]
    threading.Thread(target=_follow_parent, daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow_parent() -> None:
    with suppress(OSError):  # what the parent had not read yet ends a socket with an error
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
