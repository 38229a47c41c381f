"""What a reported usage event costs on its way through `POST /api/v1/usage/events`.

The API runs as in production, a process of its own, and answers each event with its verdict after
the commit. Clients send bodies that were made before, on connections of their own, and read whole
answers; they and the server of the database share the machine with it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from billing.operations.tenancy.keys import issue_key
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from tests.benchmarks.measures import cpu_us, resident_mib

BATCH = 5_000
CLIENTS = 3
TENANT = "reported"
PATH = "/api/v1/usage/events"
SPACING_MS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiProcess:
    """A running control plane, and the key of its operator."""

    pid: int
    port: int
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """One round of reports: how fast, and what the API's process spent on it."""

    per_second: float
    cpu_us: float
    resident_mib: float


@contextlib.contextmanager
def api_process(database: Database, url: str) -> Iterator[ApiProcess]:
    """The control plane as a process of its own, until the end of the block."""
    with database.transaction(Role.OPERATOR) as connection:
        key = issue_key(
            connection, role=KeyRole.OPERATOR, tenant=None, name="bench", now=datetime.now(UTC)
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "STEELYARD_DATABASE_URL": url,
        "STEELYARD_API_PORT": str(port),
        "STEELYARD_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "api"], env=environment)
    try:
        _wait_for(port, process)
        yield ApiProcess(pid=process.pid, port=port, key=key.text)
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the API does not start")
            time.sleep(0.05)
        else:
            return


def body(name: str, *, events: int, now: datetime) -> bytes:
    """A batch as a collector would send it: plain reports, each with an id of its own."""
    first = now - timedelta(milliseconds=events * SPACING_MS)
    return json.dumps(
        [
            {
                "source": "collector-1",
                "id": f"{name}-{number:07d}",
                "tenant": TENANT,
                "meter": "tokens.input",
                "quantity": str(number * 7919 % 100_000),
                "occurred_at": (first + timedelta(milliseconds=number * SPACING_MS)).isoformat(),
                "model": "tiny",
            }
            for number in range(events)
        ]
    ).encode()


def send(connection: http.client.HTTPConnection, api: ApiProcess, content: bytes) -> dict[str, int]:
    """Report one batch; how many of its events got which verdict."""
    headers = {"authorization": f"Bearer {api.key}", "content-type": "application/json"}
    connection.request("POST", PATH, content, headers)
    answer = connection.getresponse()
    read = answer.read()
    if answer.status != 200:
        sys.exit(f"the API answered {answer.status}: {read[:300]!r}")
    # The counts come first: parsing every verdict would take the time of the server.
    return json.loads(read[len(b'{"counts":') : read.index(b"}") + 1])


def report(api: ApiProcess, bodies: Sequence[bytes], *, verdict: str = "accepted") -> Reported:
    """Send batches of `BATCH` from several clients at once; every event must get `verdict`."""
    waiting = iter(bodies)
    lock = threading.Lock()
    counted: list[int] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=120)
        while True:
            with lock:
                content = next(waiting, None)
            if content is None:
                break
            counted.append(send(connection, api, content)[verdict])
        connection.close()

    before = cpu_us(api.pid)
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begun
    events = len(bodies) * BATCH
    if sum(counted) != events:
        sys.exit(f"{events} events were reported, {sum(counted)} got the verdict {verdict}")
    return Reported(
        per_second=events / took,
        cpu_us=(cpu_us(api.pid) - before) / events,
        resident_mib=resident_mib(api.pid),
    )
