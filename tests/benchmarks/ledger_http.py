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
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from billing.operations.metering.define_meter import define_meter
from billing.operations.tenancy.keys import issue_key
from billing.store.database import Database, Role
from billing.tenancy.api_key import Role as KeyRole
from tests.benchmarks.measures import cpu_us, resident_mib

BATCH = 5_000
CLIENTS = 3
TENANT = "reported"
PATH = "/api/v1/usage/events"
JSON = "application/json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
METER = """
code: scanned.pages
unit: pages
event_type: scan.done
value: data.usage.pages
aggregation: sum
where: {region: eu}
"""
"""Reads CloudEvents by plain paths."""
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
        define_meter(connection, METER, now=datetime.now(UTC) - timedelta(hours=1))
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


def body(events: int, *, now: datetime, dice: random.Random, cloud: bool = False) -> bytes:
    """A batch as a collector would send it, each event under a random UUID.

    Args:
        cloud: as CloudEvents that a meter reads by a path, else as plain reports.
    """
    made: list[dict[str, object]] = []
    for number in range(events):
        event_id = str(UUID(int=dice.getrandbits(128), version=4))
        at = (now - timedelta(milliseconds=(events - number) * SPACING_MS)).isoformat()
        quantity = dice.randrange(1, 5_000)
        if cloud:
            made.append(
                {
                    "specversion": "1.0",
                    "id": event_id,
                    "source": "collector-1",
                    "type": "scan.done",
                    "subject": TENANT,
                    "time": at,
                    "data": {"model": "tiny", "region": "eu", "usage": {"pages": quantity}},
                }
            )
        else:
            made.append(
                {
                    "source": "collector-1",
                    "id": event_id,
                    "tenant": TENANT,
                    "meter": "tokens.input",
                    "quantity": str(quantity),
                    "occurred_at": at,
                    "model": "tiny",
                }
            )
    return json.dumps(made).encode()


def send(
    connection: http.client.HTTPConnection, api: ApiProcess, content: bytes, media_type: str
) -> dict[str, int]:
    """Report one batch; how many of its events got which verdict."""
    headers = {"authorization": f"Bearer {api.key}", "content-type": media_type}
    connection.request("POST", PATH, content, headers)
    answer = connection.getresponse()
    read = answer.read()
    if answer.status != 200:
        sys.exit(f"the API answered {answer.status}: {read[:300]!r}")
    # The counts come first: parsing every verdict would take the time of the server.
    return json.loads(read[len(b'{"counts":') : read.index(b"}") + 1])


def report(api: ApiProcess, bodies: Sequence[bytes], *, media_type: str = JSON) -> Reported:
    """Send batches of `BATCH` from several clients at once; every event must be accepted."""
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
            counted.append(send(connection, api, content, media_type)["accepted"])
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
        sys.exit(f"{events} events were reported, {sum(counted)} were accepted")
    return Reported(
        per_second=events / took,
        cpu_us=(cpu_us(api.pid) - before) / events,
        resident_mib=resident_mib(api.pid),
    )
