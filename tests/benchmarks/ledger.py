"""What a usage event costs on its way into the ledger, beside a raw COPY of the same rows.

The journal path does everything that a bill depends on: read and check the records, insert each
event once under an epoch, add it to the rollups, move the cursor, all in one transaction per page,
through row security and triggers; the HTTP path claims the reporter's id besides and answers each
event. The baseline copies the same rows, in the same pages, with one commit each, into a plain
table with the same indexes: what the disk and the server could take if nothing had to be right.
Rounds alternate on one server with fsync on, so that a busy machine slows all of them.

`make bench NAME=ledger ROUNDS=long` ships ten million events besides, or what ten minutes allow.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from billing.journal.journal import Journal
from billing.operations.metering.ship_journal import JournalShipper
from billing.operations.seal.fold import seal_all
from billing.signing.ed25519 import load_or_make
from billing.store.database import Database
from billing.store.embedded.address import ServerAddress
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from tests.benchmarks import ledger_http as http
from tests.benchmarks.ledger_books import PER_COMMIT, POSTERS, postings_per_second
from tests.benchmarks.ledger_journal import (
    TENANTS,
    Bench,
    copy_raw,
    head,
    require_exact,
    ship,
    usage,
    write_journal,
)
from tests.benchmarks.ledger_storage import OTHER_TENANTS, READS, bytes_stored, month_reads
from tests.benchmarks.ledger_visible import PER_SECOND, percentile, visible
from tests.benchmarks.ledger_writers import Soak, soak, two_at_once
from tests.benchmarks.report import FOLDER, Figure, publish
from tests.benchmarks.seal import prove, seal_and_verify
from tests.operations.crash_points import attribution_of
from tests.world import World, make_world
from workers.writer import tune_interpreter

ROUNDS = 4
EVENTS = 25_000
"""Per round; 100,000 in all."""
LONE_EVENTS = 40
HTTP_BATCHES = 8
"""Per round and form."""
SOAK_EVENTS = 10_000_000
SOAK_CHUNK = 100_000
SOAK_SECONDS = 600


async def lone_events(bench: Bench, first: int) -> list[float]:
    """Milliseconds from a lone event's `append` to the commit that makes it visible."""
    journal = await Journal.open(bench.directory)
    shipper = JournalShipper(database=bench.database, directory=bench.directory)
    took: list[float] = []
    for number in range(first, first + LONE_EVENTS):
        record = usage(bench, number)
        begun = time.perf_counter()
        await journal.append(record)
        shipment = await asyncio.to_thread(shipper.ship, now=bench.now)
        took.append((time.perf_counter() - begun) * 1000)
        if shipment.events != 1:
            sys.exit("a durable event was not shipped at once")
    await journal.close()
    return took


def sealed_bytes(database: Database, owner: psycopg.Connection, name: str) -> list[Figure]:
    """Seal what there is, and say what an event takes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        seal_all(database, load_or_make(Path(folder) / "seal.key"), now=datetime.now(UTC))
    row = owner.execute("SELECT count(*) FROM usage_event").fetchone()
    assert row is not None
    parts = {part: size / int(row[0]) for part, size in bytes_stored(owner).items()}
    shown = ", ".join(f"{part} {size:.0f}" for part, size in parts.items() if part != "events")
    return [
        Figure(
            name=f"bytes.{name}",
            value=sum(parts.values()),
            unit=f"bytes/event; of them {shown}",
        )
    ]


def measure_journal(bench: Bench) -> list[Figure]:
    """The journal path; medians, because one busy second is nobody's cost."""
    bench.owner.execute("CREATE TABLE plain (LIKE usage_event)")
    bench.owner.execute("ALTER TABLE plain ADD PRIMARY KEY (id)")
    bench.owner.execute("CREATE INDEX ON plain (tenant_id, occurred_at)")
    journal: list[float] = []
    ledger: list[float] = []
    cpu_us: list[float] = []
    plain: list[float] = []
    pages = 0
    for number in range(ROUNDS):
        before = head(bench)
        journal.append(EVENTS / write_journal(bench, number * EVENTS, EVENTS))
        took, cpu = ship(bench, EVENTS)
        ledger.append(EVENTS / took)
        cpu_us.append(cpu / EVENTS * 1_000_000)
        plain.append(EVENTS / copy_raw(bench, before))
        pages += head(bench) - before
    lone = asyncio.run(lone_events(bench, ROUNDS * EVENTS))
    require_exact(bench, ROUNDS * EVENTS + LONE_EVENTS)
    per_second = statistics.median(ledger)
    return [
        Figure(name="raw copy", value=statistics.median(plain), unit="rows/s, plain table"),
        Figure(name="journal", value=statistics.median(journal), unit="durable appends/s"),
        Figure(
            name="ledger",
            value=per_second,
            unit="events/s, exactly once, rolled up",
            baseline="raw copy",
        ),
        Figure(name="ledger.cpu", value=statistics.median(cpu_us), unit="µs CPU/event, writer"),
        Figure(name="ledger.page", value=ROUNDS * EVENTS / pages, unit="events/transaction"),
        *sealed_bytes(bench.database, bench.owner, "minted"),
        Figure(name="lone.p50", value=statistics.median(lone), unit="ms, append to commit"),
        Figure(name="lone.max", value=max(lone), unit=f"ms, of {LONE_EVENTS} lone events"),
    ]


def measure_processes(bench: Bench) -> list[Figure]:
    """Writers as processes: two at once, and one under a steady load."""
    first = ROUNDS * EVENTS + LONE_EVENTS
    both = two_at_once(bench, first, EVENTS * 2)
    seen = visible(bench, first + EVENTS * 8)
    memory = seen.resident_mib
    load = f"ms, append to totals, {len(seen.took_ms):,} at {seen.per_second:,.0f}/s"
    return [
        Figure(name="two writers", value=both, unit="events/s of both", baseline="raw copy"),
        Figure(
            name=f"visible.p50 at {PER_SECOND}/s", value=percentile(seen.took_ms, 50), unit=load
        ),
        Figure(
            name=f"visible.p99 at {PER_SECOND}/s", value=percentile(seen.took_ms, 99), unit=load
        ),
        Figure(name=f"visible.max at {PER_SECOND}/s", value=max(seen.took_ms), unit=load),
        Figure(name="memory.start", value=memory[0], unit="MiB resident, writer"),
        Figure(name="memory.middle", value=memory[len(memory) // 2], unit="MiB resident, writer"),
        Figure(name="memory.end", value=memory[-2], unit="MiB resident, writer"),
    ]


def measure_reports(database: Database, url: str) -> list[Figure]:
    """The HTTP path with plain reports and with CloudEvents, in turns."""
    dice, figures = random.Random(2), list[Figure]()
    rounds: dict[str, list[http.Reported]] = {http.JSON: [], http.CLOUD_EVENTS: []}
    with http.api_process(database, url) as api:
        for _ in range(ROUNDS):
            for media_type, reported in rounds.items():
                bodies = [
                    http.body(
                        http.BATCH,
                        now=datetime.now(UTC),
                        dice=dice,
                        cloud=media_type == http.CLOUD_EVENTS,
                    )
                    for _ in range(HTTP_BATCHES)
                ]
                reported.append(http.report(api, bodies, media_type=media_type))
    for media_type, name in ((http.JSON, "http"), (http.CLOUD_EVENTS, "http.cloud")):
        reported = rounds[media_type]
        figures += [
            Figure(
                name=name,
                value=statistics.median(each.per_second for each in reported),
                unit=f"events/s, {http.CLIENTS} clients, batches of {http.BATCH:,}",
                baseline="raw copy",
            ),
            Figure(
                name=f"{name}.cpu",
                value=statistics.median(each.cpu_us for each in reported),
                unit="µs CPU/event, API",
            ),
        ]
    memory = [each.resident_mib for each in rounds[http.JSON]]
    figures.append(Figure(name="http.memory.start", value=memory[0], unit="MiB resident, API"))
    figures.append(Figure(name="http.memory.end", value=memory[-1], unit="MiB resident, API"))
    return figures


def measure_books(world: World) -> list[Figure]:
    """The money ledger's postings, alone and many to a commit."""
    tenants = [world.tenant(f"payer-{number}") for number in range(POSTERS)]
    return [
        Figure(
            name=name,
            value=postings_per_second(world, tenants, per_commit=per_commit),
            unit=f"postings/s, {POSTERS} posters, {per_commit} pairs to a commit",
        )
        for name, per_commit in (("postings", 1), ("postings.batched", PER_COMMIT))
    ]


def measure_soak(ran: Soak) -> list[Figure]:
    """How a long run ended beside how it began: its first and last tenth."""
    tenth = max(1, len(ran.per_second) // 10)
    memory = ran.resident_mib
    return [
        Figure(name="soak.events", value=ran.events, unit="events shipped by one writer"),
        Figure(name="soak.start", value=statistics.median(ran.per_second[:tenth]), unit="events/s"),
        Figure(
            name="soak.end",
            value=statistics.median(ran.per_second[-tenth:]),
            unit="events/s",
            baseline="soak.start",
        ),
        Figure(name="soak.memory.start", value=memory[0], unit="MiB resident, writer"),
        Figure(
            name="soak.memory.end",
            value=memory[-1],
            unit="MiB resident, writer",
            baseline="soak.memory.start",
        ),
    ]


def journal_figures(address: ServerAddress, *, long: bool) -> list[Figure]:
    """All that begins with a journal, in a database of its own."""
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    database = Database(address.app_url())
    world = make_world(database, now)
    with (
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
        psycopg.connect(address.owner_conninfo(), autocommit=True) as owner,
    ):
        bench = Bench(
            database=database,
            url=address.app_url(),
            owner=owner,
            now=now,
            whose=[attribution_of(world, world.tenant(f"t-{n}")) for n in range(TENANTS)],
            directory=Path(folder),
            dice=random.Random(1),
        )
        figures = measure_journal(bench) + measure_processes(bench)
        if long:
            ran = soak(
                bench,
                ROUNDS * EVENTS * 100,
                events=SOAK_EVENTS,
                chunk=SOAK_CHUNK,
                seconds=SOAK_SECONDS,
            )
            figures += measure_soak(ran)
        month = month_reads(database, owner)
    database.close()
    return [
        *figures,
        Figure(
            name="month.p50",
            value=statistics.median(month),
            unit=f"ms, one of {OTHER_TENANTS} tenants' month by day, synthetic",
        ),
        Figure(name="month.max", value=max(month), unit=f"ms, of {READS} reads, synthetic"),
    ]


def other_figures(address: ServerAddress) -> list[Figure]:
    """Reports, books and the seal, each in a database of its own."""
    figures: list[Figure] = []
    with psycopg.connect(address.owner_conninfo(), autocommit=True) as owner:
        for name in ("reported", "sealed"):
            owner.execute(f"CREATE DATABASE {name}")
            migrate(address.owner_url(name))
    database = Database(address.app_url("reported"))
    world = make_world(database, datetime.now(UTC))
    world.tenant(http.TENANT)
    figures += measure_reports(database, address.app_url("reported"))
    with psycopg.connect(address.owner_conninfo("reported"), autocommit=True) as owner:
        figures += sealed_bytes(database, owner, "foreign")
    figures += measure_books(world)
    database.close()
    database = Database(address.app_url("sealed"))
    world = make_world(database, datetime(2026, 11, 15, 12, tzinfo=UTC))
    with tempfile.TemporaryDirectory() as folder:
        figures += seal_and_verify(world, Path(folder)) + prove(world)
    database.close()
    return figures


def main() -> None:
    """Measure on a server of its own, with fsync on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with throwaway_server(fsync=True) as address:
        migrate(address.owner_url())
        tune_interpreter()
        long = os.environ.get("ROUNDS") == "long"
        figures = journal_figures(address, long=long) + other_figures(address)
    publish("ledger", figures)


if __name__ == "__main__":
    main()
