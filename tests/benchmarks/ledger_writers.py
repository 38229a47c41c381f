"""Ledger writers as processes of their own, so that their memory and two at once can be seen."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from billing.operations.metering.ship_journal import JournalShipper
from billing.store.database import Database
from tests.benchmarks.ledger_journal import Bench, write_journal
from tests.benchmarks.measures import resident_mib
from workers.writer import tune_interpreter


class Shipped(NamedTuple):
    """One pass of a writer: when it was over, on the machine's own clock, and what it left."""

    events: int
    ended: float
    seconds: float
    resident_mib: float


def _ship_on_demand(pipe: Connection, url: str, directory: Path, now: datetime) -> None:
    database = Database(url, pool_size=3)
    shipper = JournalShipper(database=database, directory=directory)
    shipper.ship(now=now)
    tune_interpreter()
    pipe.send(None)
    while pipe.recv():
        begun = time.monotonic()
        events = shipper.ship(now=now).events
        ended = time.monotonic()
        pipe.send(Shipped(events, ended, ended - begun, resident_mib(os.getpid())))
    database.close()


@contextlib.contextmanager
def writer_process(bench: Bench, directory: Path) -> Iterator[Connection]:
    """A writer of one folder that ships each time it is sent True; `Shipped` comes back."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_ship_on_demand, args=(theirs, bench.url, directory, bench.now), daemon=True
    )
    process.start()
    try:
        ours.recv()
        yield ours
        ours.send(False)
    finally:
        process.join(20)
        process.terminate()


def two_at_once(bench: Bench, first: int, events: int) -> float:
    """Ship two folders of `events` events each by two writers at once; events/s of both."""
    names = ("left", "right")
    for number, name in enumerate(names):
        write_journal(bench, first + number * events, events, to=name)
    with contextlib.ExitStack() as stack:
        pipes = [
            stack.enter_context(writer_process(bench, bench.directory / name)) for name in names
        ]
        # What a writer ships while it starts would not be measured: it is written afterwards.
        for number, name in enumerate(names, start=2):
            write_journal(bench, first + number * events, events, to=name)
        begun = time.monotonic()
        for pipe in pipes:
            pipe.send(True)
        shipped = [pipe.recv() for pipe in pipes]
    if [each.events for each in shipped] != [events, events]:
        sys.exit("two writers at once did not ship what was in their folders")
    return 2 * events / (max(each.ended for each in shipped) - begun)


class Soak(NamedTuple):
    """A long run in chunks: events/s and the writer's memory after each."""

    events: int
    per_second: list[float]
    resident_mib: list[float]


def soak(bench: Bench, first: int, *, events: int, chunk: int, seconds: int) -> Soak:
    """Ship chunk after chunk by one writer until `events` are in, or the time is over."""
    done, speeds, memory = 0, list[float](), list[float]()
    until = time.monotonic() + seconds
    directory = bench.directory / "soak"
    directory.mkdir()
    with writer_process(bench, directory) as pipe:
        while done < events and time.monotonic() < until:
            write_journal(bench, first + done, chunk, to="soak")
            pipe.send(True)
            shipped: Shipped = pipe.recv()
            if shipped.events != chunk:
                sys.exit(f"{chunk} events in the journal, {shipped.events} became new")
            done += chunk
            speeds.append(chunk / shipped.seconds)
            memory.append(shipped.resident_mib)
    return Soak(done, speeds, memory)
