"""A server that exists for one with block: tests and demonstrations, never a deployment."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from billing.store.embedded.address import ServerAddress
from billing.store.embedded.server import EmbeddedServer


@contextmanager
def throwaway_server(*, fsync: bool) -> Generator[ServerAddress]:
    """Start a server in a new folder and remove both at the end.

    Args:
        fsync: False makes commits faster and a power cut fatal, which costs nothing here.

    Root's folder lies under /var/lib, where the server's own user can reach it; anybody else's
    is where `tempfile` puts it.
    """
    base = "/var/lib" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="steelyard-tests-", dir=base))
    server = EmbeddedServer(folder, fsync=fsync)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(folder)
