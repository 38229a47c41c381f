"""Where tests keep what no test asks of a disk: in memory, on a machine that has a folder there.

A database is some seven hundred files, and every test that needs one gets its own. Copied on a disk
by several servers at once they take the processor for half a second, in memory for a fiftieth.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from billing.store.embedded import EmbeddedServer

SHARED = Path("/dev/shm")  # folders in it are made by `tempfile`, for their owner only
ROOM_BYTES = 4 << 30
"""Several servers at once, with the logs of what tests write."""

STALE_SECONDS = 3600


def folder_in_memory() -> Path | None:
    """A folder in memory with room for databases; None where there is none."""
    if not os.access(SHARED, os.W_OK):
        return None
    _sweep()
    return SHARED if shutil.disk_usage(SHARED).free >= ROOM_BYTES else None


def _sweep() -> None:
    """Remove servers of runs that were killed: here they would take memory until a restart."""
    for folder in SHARED.glob("steelyard-tests-*"):
        found = folder.stat()
        stale = found.st_uid == os.geteuid() and time.time() - found.st_mtime > STALE_SECONDS
        if stale and not EmbeddedServer(folder).is_running():
            shutil.rmtree(folder)
