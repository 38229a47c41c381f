"""`make soak`: half of what this machine can do, for an hour, with memory watched.

The proxy, an engine, the ledger's writer and PostgreSQL run as in production; clients ask for
whole answers and streams, send long prompts, and leave in the middle. What the machine can do is
measured first. A line per minute says how it goes; the verdict asks whether memory grows and
whether an answer is missing in the ledger. `MINUTES=n` makes it shorter; Ctrl-C ends it, with a
verdict on what was seen until then; SIGTERM ends it without one. Either way nothing stays behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import uvloop

from billing.journal.instance import read_mark, segment_path
from billing.journal.reader import list_instances, segments
from billing.metering.usage_event import Cause
from billing.store.database import Database
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from tests.benchmarks.measures import resident_mib
from tests.benchmarks.mixed_load import Kind, MixedLoad
from tests.benchmarks.open_loop import percentile
from tests.benchmarks.proxy_world import child, free_port, pin, run_proxy
from tests.benchmarks.report import FOLDER, Figure, publish
from tests.fake_engine import fast
from tests.operations.crash_points import attribution_of
from tests.world import make_world

MINUTES = int(os.environ.get("MINUTES", "60"))
CALIBRATION_SECONDS = 20
CALIBRATION_CALLERS = 64
SAMPLE_SECONDS = 5
PACE_MS = 100
PATIENCE_SECONDS = 60
TERMINATED = 128 + signal.SIGTERM
FLAT_MIB = 1.0
"""Per 10 minutes."""
FLAT_SHARE = 5
"""Percent of what it was, over the whole run."""


@dataclass(slots=True)
class Watched:
    """Resident memory of a process, MiB by seconds since the start."""

    name: str
    pid: int
    samples: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def sample(self, at: float) -> None:
        self.samples.append((at, resident_mib(self.pid)))

    @property
    def mib(self) -> float:
        return self.samples[-1][1] if self.samples else 0.0

    def slope(self) -> tuple[float, float]:
        """MiB per 10 minutes over the last three quarters by least squares, and the half width
        of its 95 % bound. The first quarter fills pools and caches."""
        kept = self.samples[len(self.samples) // 4 :]
        if len(kept) < 3:
            return 0.0, 0.0
        times, values = [at for at, _ in kept], [mib for _, mib in kept]
        slope, intercept = statistics.linear_regression(times, values)
        mean = statistics.fmean(times)
        spread = sum((at - mean) ** 2 for at in times)
        rest = sum((mib - intercept - slope * at) ** 2 for at, mib in kept)
        error = (rest / (len(kept) - 2) / spread) ** 0.5
        return slope * 600, 1.96 * error * 600

    def grown_share(self) -> float:
        """Percent that the fitted line grows by over the whole run, of the memory it began with."""
        kept = self.samples[len(self.samples) // 4 :]
        if len(kept) < 3:
            return 0.0
        return 100 * self.slope()[0] / 600 * (kept[-1][0] - kept[0][0]) / kept[0][1]

    @property
    def flat(self) -> bool:
        return self.slope()[0] < FLAT_MIB and self.grown_share() < FLAT_SHARE

    @property
    def grows(self) -> bool:
        """Whether it is certain that it is not flat: a short run may not tell."""
        slope, bound = self.slope()
        return not self.flat and slope - bound >= FLAT_MIB


@dataclass(slots=True, kw_only=True)
class Site:
    """The running processes.

    Attributes:
        journal: folder of the proxy's journal.
    """

    port: int
    journal: Path
    owner: psycopg.Connection
    proxy: Watched
    writer: Watched

    def backlog_kib(self) -> float:
        """What is durable in journals and not in the ledger."""
        cursors = {
            name: (int(segment), int(offset))
            for name, segment, offset in self.owner.execute(
                "SELECT instance, segment, next_offset FROM journal_cursor"
            ).fetchall()
        }
        behind = 0
        for folder in list_instances(self.journal):
            shipped, offset = cursors.get(folder.name, (1, 0))
            durable = read_mark(folder)
            for segment in segments(folder):
                size = segment_path(folder, segment.number).stat().st_size
                end = durable.offset if segment.number == durable.segment else size
                if segment.number >= shipped:
                    behind += end - (offset if segment.number == shipped else 0)
        return max(0, behind) / 1024

    def open_files(self) -> int:
        """File descriptors of the proxy."""
        return sum(1 for _ in Path(f"/proc/{self.proxy.pid}/fd").iterdir())

    def completed(self) -> int:
        """Events in the ledger of answers that were complete."""
        row = self.owner.execute(
            "SELECT count(*) FROM usage_event WHERE cause = %s", [int(Cause.COMPLETED)]
        ).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def _writer(folder: Path, url: str) -> Generator[int]:
    environment = {**os.environ, "STEELYARD_DATABASE_URL": url, "STEELYARD_DATA_DIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.writer"],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def apart(target: Callable[..., None], port: int, *arguments: Any) -> None:
    """Run a server out of reach of Ctrl-C: the soak stops it when everything is counted."""
    os.setsid()
    target(port, *arguments)


def run_engine(port: int, pace_ms: int) -> None:
    """An engine, out of reach of Ctrl-C."""
    apart(fast.main, port, pace_ms)


def run_data_plane(port: int, *arguments: Any) -> None:
    """The proxy, out of reach of Ctrl-C."""
    apart(run_proxy, port, *arguments)


async def _drive(site: Site, load: MixedLoad) -> tuple[int, float]:
    """Learn the capacity, then load half of it; the rate and the seconds it was kept."""
    stop = asyncio.Event()
    loop, soaking = asyncio.get_running_loop(), asyncio.current_task()
    assert soaking is not None
    loop.add_signal_handler(signal.SIGINT, stop.set)
    # Cancelled, so that every block that started something ends it on the way out.
    loop.add_signal_handler(signal.SIGTERM, soaking.cancel)
    print(f"measuring what this machine can do, {CALIBRATION_SECONDS} s …", flush=True)
    capacity = await load.flat_out(connections=CALIBRATION_CALLERS, seconds=CALIBRATION_SECONDS)
    rate = max(1, int(capacity / 2))
    print(f"{capacity:,.0f} answers/s; half of it for {MINUTES} min (Ctrl-C ends it)", flush=True)
    print("minute   answers/s   p99 ms   proxy MiB   writer MiB   backlog KiB   files   errors")
    load.answers.times_us.clear()
    driving = asyncio.create_task(load.steadily(rate, stop))
    begun = time.monotonic()
    reported, before = 0, sum(load.answers.complete.values())
    while not stop.is_set() and (at := time.monotonic() - begun) < MINUTES * 60:
        site.proxy.sample(at)
        site.writer.sample(at)
        if at >= (reported + 1) * 60:
            reported += 1
            done = sum(load.answers.complete.values())
            print(_line(reported, (done - before) / 60, site, load), flush=True)
            before = done
        await asyncio.wait([driving], timeout=SAMPLE_SECONDS)
    seconds = time.monotonic() - begun
    stop.set()
    await driving
    return rate, seconds


def _line(minute: int, per_second: float, site: Site, load: MixedLoad) -> str:
    times, load.answers.times_us = load.answers.times_us, []
    p99 = percentile(times, 99) / 1000 if len(times) > 1 else 0.0
    return (
        f"{minute:6d}   {per_second:9,.0f}   {p99:6.1f}   {site.proxy.mib:9.1f}   "
        f"{site.writer.mib:10.1f}   {site.backlog_kib():11,.0f}   {site.open_files():5d}   "
        f"{load.answers.errors:6d}"
    )


async def _soak(site: Site) -> list[Figure]:
    models = {kind: "paced" if kind is Kind.ABORT else "tiny" for kind in Kind}
    load = MixedLoad(site.port, models=models)
    rate, seconds = await _drive(site, load)
    load.close()
    billed, begun = load.answers.billed, time.monotonic()
    while site.completed() < billed and time.monotonic() - begun < PATIENCE_SECONDS:  # noqa: ASYNC110  # no event: at the end only
        await asyncio.sleep(0.5)
    figures = [
        Figure(name="rate", value=rate, unit=f"requests/s for {seconds / 60:.1f} min"),
        Figure(name="answers", value=billed, unit="answers in full"),
        Figure(name="left", value=load.answers.complete[Kind.ABORT], unit="clients that left"),
        Figure(name="errors", value=load.answers.errors, unit="requests not answered 200"),
        Figure(name="lost", value=billed - site.completed(), unit="answers without their event"),
    ]
    for watched in (site.proxy, site.writer):
        slope, bound = watched.slope()
        unit = f"MiB per 10 min, ± {bound:.2f} (95 %); flat is below {FLAT_MIB:g}"
        figures += [
            Figure(name=f"{watched.name}.memory", value=watched.mib, unit="MiB at the end"),
            Figure(name=f"{watched.name}.slope", value=slope, unit=unit),
            Figure(
                name=f"{watched.name}.grown",
                value=watched.grown_share(),
                unit=f"% over the run; flat is below {FLAT_SHARE}",
            ),
            Figure(name=f"{watched.name}.flat", value=int(watched.flat), unit="1 is yes"),
        ]
    return figures


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM while the soak starts or ends: by default it would leave its children running."""
    del number, frame
    sys.exit(TERMINATED)


def main() -> None:
    """Start everything, load it, and judge; exits 1 where memory grows or an answer is missing."""
    signal.signal(signal.SIGTERM, _end)
    pin(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    ports = {"tiny": free_port(), "paced": free_port()}
    port = free_port()
    with (
        throwaway_server(fsync=True) as address,
        tempfile.TemporaryDirectory(dir=FOLDER) as directory,
        child(0, run_engine, ports["tiny"], 0),
        child(0, run_engine, ports["paced"], PACE_MS),
    ):
        migrate(address.owner_url())
        database = Database(address.app_url())
        world = make_world(database, datetime.now(UTC))
        whose = attribution_of(world, world.tenant("acme"), backend="tiny")
        folder = Path(directory)
        with (
            _writer(folder, address.app_url()) as writer_pid,
            psycopg.connect(address.owner_conninfo(), autocommit=True) as owner,
            child(1, run_data_plane, port, ports, folder / "journal", whose) as pid,
        ):
            site = Site(
                port=port,
                journal=folder / "journal",
                owner=owner,
                proxy=Watched("proxy", pid),
                writer=Watched("writer", writer_pid),
            )
            try:
                figures = uvloop.run(_soak(site))
            except asyncio.CancelledError:
                sys.exit(TERMINATED)
        database.close()
    publish("soak", figures)
    values = {figure.name: figure.value for figure in figures}
    if values["lost"] or values["errors"]:
        sys.exit("an answer is missing in the ledger, stands there twice, or failed")
    if site.proxy.grows or site.writer.grows:
        sys.exit("memory grows")
    if not (site.proxy.flat and site.writer.flat):
        sys.exit("too short, or too busy a machine, to tell whether memory is flat")


if __name__ == "__main__":
    main()
