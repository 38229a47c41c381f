"""The proxy under a load that goes on, with the ledger's writer and PostgreSQL on the other core;
and what a kill costs.

256 callers, each with one request at a time. The journal must not fall behind: what was answered
and is not in the ledger yet is looked at every second.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import uvloop

from billing.store.database import Database
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from tests.benchmarks.load import Load, run_load
from tests.benchmarks.measures import cpu_us
from tests.benchmarks.proxy_world import child, durable_usages, free_port, request_bytes, run_proxy
from tests.benchmarks.report import FOLDER, Figure
from tests.operations.crash_points import attribution_of
from tests.world import make_world

CONNECTIONS = 256
PATIENCE_SECONDS = 60
KILLED_AFTER_SECONDS = 1.5


def _writer(folder: Path, url: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "STEELYARD_DATABASE_URL": url,
        "STEELYARD_DATA_DIR": str(folder),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "workers.writer"], env=environment, stdout=subprocess.DEVNULL
    )


def _load(port: int, seconds: float) -> Load:
    request = request_bytes("tiny", stream=False)
    return uvloop.run(
        run_load(port, request, connections=CONNECTIONS, seconds=seconds, stream=False)
    )


def _in_ledger(owner: psycopg.Connection) -> int:
    row = owner.execute("SELECT count(*) FROM usage_event").fetchone()
    assert row is not None
    return int(row[0])


def sustained(engine_ports: dict[str, int], *, seconds: float) -> list[Figure]:
    """Answers/s, CPU, and how far the ledger is behind in the first and the second half."""
    now = datetime.now(UTC)
    with (
        throwaway_server(fsync=True) as address,
        tempfile.TemporaryDirectory(dir=FOLDER) as directory,
    ):
        migrate(address.owner_url())
        database = Database(address.app_url())
        world = make_world(database, now)
        whose = attribution_of(world, world.tenant("acme"), backend="tiny")
        folder = Path(directory)
        writer = _writer(folder, address.app_url())
        port = free_port()
        behind: list[int] = []
        load: list[Load] = []
        with (
            psycopg.connect(address.owner_conninfo(), autocommit=True) as owner,
            child(1, run_proxy, port, engine_ports, folder / "journal", whose) as pid,
        ):
            before = cpu_us(pid)

            loading = threading.Thread(target=lambda: load.append(_load(port, seconds)))
            loading.start()
            while loading.is_alive():
                loading.join(1)
                behind.append(durable_usages(folder / "journal") - _in_ledger(owner))
            used_us = (cpu_us(pid) - before) / load[0].answers
            begun = time.monotonic()
            while _in_ledger(owner) < load[0].answers:
                if time.monotonic() - begun > PATIENCE_SECONDS:
                    sys.exit("the ledger does not catch up with the journal")
                time.sleep(0.02)
            caught_up = (time.monotonic() - begun) * 1000
            if load[0].errors or _in_ledger(owner) != load[0].answers:
                sys.exit("an answer is missing in the ledger, or stands there twice")
        writer.send_signal(signal.SIGTERM)
        writer.wait(30)
        database.close()
    return _figures(load[0], behind, used_us=used_us, caught_up=caught_up)


def _figures(load: Load, behind: list[int], *, used_us: float, caught_up: float) -> list[Figure]:
    half = max(1, len(behind) // 2)
    unit = f"{CONNECTIONS} connections, {load.seconds:.0f} s, writer and database running"
    return [
        Figure(name="sustained.rate", value=load.per_second, unit=f"answers/s, {unit}"),
        Figure(name="sustained.cpu", value=used_us, unit=f"µs CPU/answer, {unit}"),
        Figure(
            name="sustained.behind.first",
            value=statistics.median(behind[:half]),
            unit="events not in the ledger yet, median of the first half",
        ),
        Figure(
            name="sustained.behind.second",
            value=statistics.median(behind[half:] or behind),
            unit="the same, second half",
        ),
        Figure(name="sustained.caught_up", value=caught_up, unit="ms to the last event"),
    ]


def losses_of_a_kill(engine_ports: dict[str, int], *, rounds: int) -> list[Figure]:
    """Kill -9 under load: answers that clients had in full and that no journal knows."""
    lost = answered = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=FOLDER) as directory:
            folder, port = Path(directory), free_port()
            with child(1, run_proxy, port, engine_ports, folder) as pid:
                killing = threading.Timer(KILLED_AFTER_SECONDS, os.kill, (pid, signal.SIGKILL))
                killing.start()
                request = request_bytes("tiny", stream=False)
                load = uvloop.run(
                    run_load(
                        port, request, connections=32, seconds=60, stream=False, until_lost=True
                    )
                )
                killing.join()
            answered += load.answers
            lost += max(0, load.answers - durable_usages(folder))
    return [
        Figure(name="kill.answered", value=answered, unit=f"answers in full, {rounds} kills"),
        Figure(name="kill.lost", value=lost, unit="of them without a durable usage event"),
    ]
