"""A proxy in a process of its own that dies between binding an id and telling it, or between a
backend's taking a batch and our record of it.

`python -m tests.api.proxy.stored.dying_proxy FIRST_URL SECOND_URL DATABASE_URL FOLDER bind|record`
prints its port once it listens.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from api.proxy.app import create_app
from api.proxy.binding_port import IntendedBatch
from api.proxy.control.bindings import Bindings
from api.proxy.control.snapshots import utc_now
from api.proxy.server import serve
from billing.admission.binding import Binding
from billing.journal.journal import Journal
from billing.store.database import Database
from tests.api.proxy.conftest import MemoryControl
from tests.api.proxy.stored.conftest import snapshot_of


class DiesBound(Bindings):
    """Kills its process as soon as an id is bound."""

    async def bind(self, bindings: Sequence[Binding]) -> None:
        await super().bind(bindings)
        os.kill(os.getpid(), signal.SIGKILL)


class DiesUnrecorded(Bindings):
    """Kills its process when a backend has taken a batch."""

    async def record(
        self, batch: IntendedBatch, batch_id: str, bindings: Sequence[Binding]
    ) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


DYING = {"bind": DiesBound, "record": DiesUnrecorded}


async def main(first: str, second: str, database_url: str, folder: Path, dies_at: str) -> None:
    journal = await Journal.open(folder)
    bindings = DYING[dies_at](Database(database_url, pool_size=2), now=utc_now)
    control = MemoryControl(snapshot_of(first, second))
    app = create_app(control, journal, bindings=bindings)
    await serve(app, "127.0.0.1", 0, on_ready=lambda port: print(port, flush=True))


if __name__ == "__main__":
    first_url, second_url, of_database, journal_folder, dies = sys.argv[1:]
    uvloop.run(main(first_url, second_url, of_database, Path(journal_folder), dies))
