"""A server that exists for one with block: tests and demonstrations, never a deployment."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from billing.store.embedded.address import ServerAddress
from billing.store.embedded.server import EmbeddedServer


@contextmanager
def throwaway_server(*, fsync: bool, parent: Path | None = None) -> Generator[ServerAddress]:
    """Start a server in a new folder and remove both at the end.

    Args:
        fsync: False makes commits faster and a power cut fatal, which costs nothing here.
        parent: where the folder is made; None: where `tempfile` puts it. Under root the server's
            own user must be able to pass through to there, which /tmp allows.
    """
    folder = Path(tempfile.mkdtemp(prefix="steelyard-tests-", dir=parent))
    server = EmbeddedServer(folder, fsync=fsync)
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(folder)
