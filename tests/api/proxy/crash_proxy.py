"""A proxy in a process of its own, to be killed.

`python -m tests.api.proxy.crash_proxy ENGINE_URL FOLDER` prints its port once it listens.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from api.proxy.app import create_app
from api.proxy.server import serve
from billing.journal.journal import Journal
from tests.api.proxy.conftest import MemoryControl, snapshot_for


async def main(base_url: str, folder: Path) -> None:
    journal = await Journal.open(folder)
    app = create_app(MemoryControl(snapshot_for(base_url)), journal)
    await serve(app, "127.0.0.1", 0, on_ready=lambda port: print(port, flush=True))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
