"""What a usage event costs on its way from the journal into the ledger, beside a raw COPY.

The journal path does everything that a bill depends on: read and check the records, insert each
event once under an epoch, add it to the rollups, move the cursor, all in one transaction per page,
through row security and triggers. The baseline copies the same rows, in the same pages, with one
commit each, into a plain table with the same indexes: what the disk and the server could take if
nothing had to be right. Both alternate in rounds on one server with fsync on, so that a busy
machine slows both.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import sqlalchemy as sa

from billing.journal.journal import Journal
from billing.journal.records import Attribution, Counts, Usage
from billing.metering.event_id import RANDOM_BITS, microseconds, uuid7
from billing.operations.metering.ship_journal import JournalShipper
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.embedded.throwaway import throwaway_server
from billing.store.migrate import migrate
from billing.store.usage import levels
from billing.store.usage.verify import rollup_differences
from tests.benchmarks.report import FOLDER, Figure, publish
from tests.operations.crash_points import attribution_of
from tests.world import make_world
from workers.writer import tune_interpreter

ROUNDS = 4
EVENTS = 25_000
"""Per round; 100,000 in all."""
IN_FLIGHT = 512
"""Requests that wait for the journal at the same time."""
TENANTS = 20
SPACING_US = 4_000
"""250 requests a second: 100,000 events span under seven minutes, as a busy hour's pages do."""
LONE_EVENTS = 40
OTHER_TENANTS = 1_000
"""Whose months lie beside the one that is read: 50 million events, 806 to a day and key."""
READS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One server, its world, and where the journals are."""

    database: Database
    owner: psycopg.Connection
    now: datetime
    whose: list[Attribution]
    directory: Path
    dice: random.Random


def usage(bench: Bench, number: int) -> Usage:
    """A request as the proxy would write it down."""
    at_us = microseconds(bench.now) + number * SPACING_US
    prompt, cached, output = (bench.dice.randrange(1, top) for top in (4_000, 500, 900))
    return Usage(
        id=uuid7(at_us // 1000, bench.dice.getrandbits(RANDOM_BITS)).bytes,
        at_us=at_us,
        attribution=bench.whose[number % TENANTS],
        counts=Counts(input=prompt, cached_input=cached, output=output),
        raw={
            "prompt_tokens": prompt + cached,
            "completion_tokens": output,
            "total_tokens": prompt + cached + output,
            "prompt_tokens_details.cached_tokens": cached,
        },
        cause="completed",
        estimated=False,
        ttft_us=200_000,
        duration_us=2_000_000,
    )


def write_journal(bench: Bench, first: int, events: int) -> float:
    """Write a journal of `events` events, many at a time; the seconds that it took."""
    records = [usage(bench, number) for number in range(first, first + events)]

    async def write() -> float:
        journal = await Journal.open(bench.directory)
        waiting = iter(records)

        async def client() -> None:
            for record in waiting:
                await journal.append(record)

        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
        took = time.perf_counter() - begun
        await journal.close()
        return took

    return asyncio.run(write())


def ship(bench: Bench, expected: int) -> tuple[float, float]:
    """Ship what there is: (seconds, CPU seconds of this process)."""
    shipper = JournalShipper(database=bench.database, directory=bench.directory)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    shipment = shipper.ship(now=bench.now)
    took, cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
    if shipment.events != expected:
        sys.exit(f"{expected} events in the journal, {shipment.events} became new in the ledger")
    return took, cpu


def copy_raw(bench: Bench, after_epoch: int) -> float:
    """Copy the events of the epochs after `after_epoch` into the plain table; seconds."""
    epochs = bench.owner.execute(
        "SELECT DISTINCT epoch FROM usage_event WHERE epoch > %s ORDER BY 1", (after_epoch,)
    ).fetchall()
    pages: list[bytes] = []
    for (epoch,) in epochs:
        with bench.owner.cursor().copy(
            "COPY (SELECT * FROM usage_event WHERE epoch = %s) TO STDOUT (FORMAT BINARY)", (epoch,)
        ) as out:
            pages.append(b"".join(out))
    begun = time.perf_counter()
    for page in pages:
        with bench.owner.cursor().copy("COPY plain FROM STDIN (FORMAT BINARY)") as into:
            into.write(page)
    return time.perf_counter() - begun


def head(bench: Bench) -> int:
    with bench.database.transaction(Role.OPERATOR) as connection:
        return connection.execute(sa.text("SELECT epoch FROM ledger_epoch")).scalar_one()


def require_exact(bench: Bench, events: int) -> None:
    """Every event once, rollups equal to a re-aggregation, and nothing left to ship."""
    ship(bench, 0)
    with bench.database.transaction(Role.OPERATOR) as connection:
        stored = connection.execute(sa.text("SELECT count(*) FROM usage_event")).scalar_one()
        wrong = rollup_differences(connection)
    if stored != events or wrong:
        sys.exit(f"{events} events, {stored} in the ledger, {len(wrong)} rollups differ")


def bytes_stored(bench: Bench) -> int:
    """Bytes on disk of all events with their indexes, and of every level of the rollups."""
    row = bench.owner.execute(
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relkind = 'r' "
        "AND c.relnamespace = 'public'::regnamespace AND (c.relname LIKE 'usage_event_%' "
        "OR c.relname IN ('usage_rollup', 'usage_rollup_day', 'usage_run_total'))"
    ).fetchone()
    assert row is not None
    return int(row[0])


def month_reads(bench: Bench) -> list[float]:
    """Milliseconds to read one tenant's month by day, beside a month of many others.

    Synthetic: the day level is filled directly, with the rows that 50 million events would leave.
    """
    bench.owner.execute(
        "INSERT INTO usage_rollup_day "
        "SELECT t, DATE '2026-10-01' + d, m, 1, 1, 1, k, 0, 806, 806, 0 "
        "FROM generate_series(%s::int, %s::int) AS t, generate_series(0, 30) AS d, "
        "generate_series(1, 5) AS m, generate_series(1, 2) AS k",
        (1_000_000, 1_000_000 + OTHER_TENANTS - 1),
    )
    bench.owner.execute("ANALYZE usage_rollup_day")
    month = Period(start=datetime(2026, 10, 1, tzinfo=UTC), end=datetime(2026, 11, 1, tzinfo=UTC))
    took: list[float] = []
    for number in range(READS):
        tenant_id = 1_000_000 + number * (OTHER_TENANTS // READS)
        with bench.database.transaction(Role.TENANT, tenant_id=tenant_id) as connection:
            begun = time.perf_counter()
            rows = levels.usage(
                connection, tenant_id=tenant_id, period=month, group="day", zone_name="UTC"
            )
            took.append((time.perf_counter() - begun) * 1000)
        if len(rows) != 31 * 5:
            sys.exit(f"a month of {len(rows)} rows")
    return took


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


def measure(bench: Bench) -> list[Figure]:
    """All rounds and the figures of them; medians, because one busy second is nobody's cost."""
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
    stored = bytes_stored(bench) / (ROUNDS * EVENTS + LONE_EVENTS)
    month = month_reads(bench)
    return [
        Figure(name="raw copy", value=statistics.median(plain), unit="rows/s, plain table"),
        Figure(name="journal", value=statistics.median(journal), unit="durable appends/s"),
        Figure(
            name="ledger",
            value=statistics.median(ledger),
            unit="events/s, exactly once, rolled up",
            baseline="raw copy",
        ),
        Figure(name="ledger.cpu", value=statistics.median(cpu_us), unit="µs CPU/event, writer"),
        Figure(name="ledger.page", value=ROUNDS * EVENTS / pages, unit="events/transaction"),
        Figure(name="ledger.bytes", value=stored, unit="bytes/event, indexes and rollups"),
        Figure(
            name="month.p50",
            value=statistics.median(month),
            unit=f"ms, one of {OTHER_TENANTS} tenants' month by day, synthetic",
        ),
        Figure(name="month.max", value=max(month), unit=f"ms, of {READS} reads, synthetic"),
        Figure(name="visible.p50", value=statistics.median(lone), unit="ms, lone event"),
        Figure(name="visible.max", value=max(lone), unit=f"ms, of {LONE_EVENTS} lone events"),
    ]


def main() -> None:
    """Measure on a server of its own, with fsync on."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    with (
        throwaway_server(fsync=True) as address,
        tempfile.TemporaryDirectory(dir=FOLDER) as folder,
    ):
        migrate(address.owner_url())
        database = Database(address.app_url())
        world = make_world(database, now)
        with psycopg.connect(address.owner_conninfo(), autocommit=True) as owner:
            bench = Bench(
                database=database,
                owner=owner,
                now=now,
                whose=[attribution_of(world, world.tenant(f"t-{n}")) for n in range(TENANTS)],
                directory=Path(folder),
                dice=random.Random(1),
            )
            tune_interpreter()
            figures = measure(bench)
        database.close()
    publish("ledger", figures)


if __name__ == "__main__":
    main()
