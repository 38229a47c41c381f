"""How long an event takes from the proxy's journal to the tenants' totals, under a steady load.

The writer runs as in production, a process of its own that looks into the journals every 25 ms. A
reader asks for the totals all the time; a journal is shipped in its order, so that a total of n
shows the first n events.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg

from billing.journal.journal import Journal
from billing.journal.records import Usage
from tests.benchmarks.ledger_journal import Bench, usage
from tests.benchmarks.measures import resident_mib

PER_SECOND = 5_000
SECONDS = 24
TICK_MS = 4
PATIENCE_SECONDS = 60
"""For the last events to become visible; more means that the load cannot be kept up."""

_SHOWN = (
    "SELECT coalesce(sum(r.events), 0) FROM usage_rollup_day r "
    "JOIN meter_version v ON v.id = r.meter_version_id WHERE v.code = 'requests'"
)


class Visible(NamedTuple):
    """Milliseconds from `append` to the totals, per event; memory of the writer over the run."""

    took_ms: list[float]
    per_second: float
    resident_mib: list[float]


@contextlib.contextmanager
def _writer(bench: Bench, folder: Path) -> Iterator[int]:
    environment = {
        **os.environ,
        "STEELYARD_DATABASE_URL": bench.url,
        "STEELYARD_DATA_DIR": str(folder),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.writer"], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        # The seconds of its start would be counted as time that events took.
        if not any(b"writer ships" in line for line in process.stdout):
            sys.exit("the writer does not start")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _watch(bench: Bench, before: int, events: int, seen_at: list[float]) -> None:
    """Note for each event when the totals first showed it."""
    until = time.monotonic() + SECONDS + PATIENCE_SECONDS
    with psycopg.connect(bench.owner.info.dsn, password=bench.owner.info.password) as reader:
        reader.autocommit = True
        while len(seen_at) < events and time.monotonic() < until:
            row = reader.execute(_SHOWN).fetchone()
            assert row is not None
            now = time.perf_counter()
            seen_at.extend([now] * (int(row[0]) - before - len(seen_at)))
            time.sleep(0.002)


async def _load(folder: Path, records: list[Usage], sent_at: list[float]) -> None:
    """Append at an even pace: late ticks send what they owe."""
    journal = await Journal.open(folder)
    begun, tasks = time.perf_counter(), set[asyncio.Task[None]]()
    while len(sent_at) < len(records):
        await asyncio.sleep(TICK_MS / 1000)
        owed = min(len(records), int((time.perf_counter() - begun) * PER_SECOND))
        for record in records[len(sent_at) : owed]:
            sent_at.append(time.perf_counter())
            task = asyncio.ensure_future(journal.append(record))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await journal.close()


def visible(bench: Bench, first: int) -> Visible:
    """Run the load; every event must become visible."""
    events = PER_SECOND * SECONDS
    records = [usage(bench, number) for number in range(first, first + events)]
    row = bench.owner.execute(_SHOWN).fetchone()
    assert row is not None
    sent_at, seen_at, memory = list[float](), list[float](), list[float]()
    folder = bench.directory / "visible"
    with _writer(bench, folder) as pid:
        watching = threading.Thread(
            target=_watch, args=(bench, int(row[0]), events, seen_at), daemon=True
        )
        watching.start()
        loading = threading.Thread(
            target=lambda: asyncio.run(_load(folder / "journal", records, sent_at)), daemon=True
        )
        loading.start()
        while watching.is_alive():
            watching.join(SECONDS / 8)
            memory.append(resident_mib(pid))
        loading.join()
    if len(seen_at) != events:
        sys.exit(f"{events} events were durable, {len(seen_at)} became visible")
    took = [(seen - sent) * 1000 for sent, seen in zip(sent_at, seen_at, strict=True)]
    return Visible(took, events / (sent_at[-1] - sent_at[0]), memory)


def percentile(values: list[float], hundredth: int) -> float:
    """The value that this many in a hundred do not exceed."""
    return statistics.quantiles(values, n=100)[hundredth - 1]
