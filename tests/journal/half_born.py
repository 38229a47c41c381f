"""A process to be killed: it creates a journal and stops before the journal has its name.

`python -m tests.journal.half_born <directory>` prints a line once it stands still.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

from billing.journal.disk import Disk
from billing.journal.journal import Journal


class StoppingDisk(Disk):
    """A disk that never finishes making a name durable."""

    def sync_directory(self, directory: Path) -> None:
        print(directory, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    asyncio.run(Journal.open(Path(sys.argv[1]), disk=StoppingDisk()))
