"""The journal path and its baseline: journals written, shipped, and the same rows copied raw."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
import sqlalchemy as sa

from billing.journal.journal import Journal
from billing.journal.records import Attribution, Counts, Usage
from billing.metering.event_id import RANDOM_BITS, microseconds, uuid7
from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database, Role
from billing.store.usage.verify import rollup_differences

IN_FLIGHT = 512
"""Requests that wait for the journal at the same time."""
TENANTS = 20
SPACING_US = 4_000
"""250 requests a second: 100,000 events span under seven minutes, as a busy hour's pages do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One server, its world, and where the journals are."""

    database: Database
    url: str
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


def write_journal(bench: Bench, first: int, events: int, *, to: str = "") -> float:
    """Write a journal of `events` events, many at a time; the seconds that it took.

    Args:
        to: folder below that of the bench, for a writer of its own.
    """
    records = [usage(bench, number) for number in range(first, first + events)]

    async def write() -> float:
        journal = await Journal.open(bench.directory / to)
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
