"""`python -m workers.writer`: ships the proxies' journals of this host into the usage ledger.

One writer per journal folder, by file lock: a second one waits until the first is gone. While the
database is away it waits and tries again; the journals keep everything.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from sqlalchemy.exc import SQLAlchemyError

from billing.errors import SteelyardError
from billing.exit_status import end_process
from billing.journal.reader import sweep_unborn
from billing.operations.deployment import journal_dir, opened_database, wait_for_database
from billing.operations.metering.ship_journal import JournalShipper
from billing.settings import Settings, read_settings
from billing.stop_signal import stop_signal
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions

log = structlog.get_logger("steelyard.writer")

HOUSEKEEPING = timedelta(hours=1)
RETRY_SECONDS = 1


class Writer:
    """Ships until asked to stop, then ships once more, so that a stop leaves nothing behind."""

    def __init__(
        self,
        database: Database,
        directory: Path,
        *,
        interval_ms: int,
        keep_ms: int,
        stopping: threading.Event,
    ) -> None:
        self._database = database
        self._directory = directory
        self._shipper = JournalShipper(database=database, directory=directory, keep_ms=keep_ms)
        self._interval_s = interval_ms / 1000
        self._housekept_at = datetime.min.replace(tzinfo=UTC)
        self.stopping = stopping

    def run(self) -> None:
        """Ship until `stopping` is set."""
        while not self.stopping.is_set():
            if self._pass():
                pause_s = self._interval_s
            else:
                pause_s = RETRY_SECONDS
                # The error holds, in cycles, the pages at which it came: a megabyte a second while
                # the database is away, and garbage is looked for too rarely for that.
                gc.collect()
            self.stopping.wait(pause_s)
        self._pass()

    def _pass(self) -> bool:
        now = datetime.now(UTC)
        try:
            if now - self._housekept_at >= HOUSEKEEPING:
                self._keep_house(now)
            shipment = self._shipper.ship(now=now)
        except SQLAlchemyError as error:
            log.warning("the database is away; journals wait", reason=type(error).__name__)
            return False
        for damage in shipment.damaged:
            log.error("a journal is damaged; the others are shipped", detail=damage)
        if shipment.refused:
            log.error(
                "records that the ledger can never take were set aside",
                records=shipment.refused,
                remedy="steelyard journal refused",
            )
        if shipment.recovered:
            log.info("settled what a dead proxy left open", operations=shipment.recovered)
        return not shipment.damaged

    def _keep_house(self, now: datetime) -> None:
        with self._database.transaction(Role.INGEST) as connection:
            ensure_partitions(connection, now=now)
        removed = self._shipper.prune(now=now)
        if removed:
            log.info("removed shipped journal segments", segments=removed)
        if swept := sweep_unborn(self._directory, now - HOUSEKEEPING):
            log.info("removed journals of proxies that died while they started", folders=swept)
        self._housekept_at = now


def lock_folder(directory: Path, stopping: threading.Event) -> int | None:
    """Become the writer of a journal folder; None if asked to stop while waiting for it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory / ".writer.lock", os.O_RDWR | os.O_CREAT, 0o600)
    waited = False
    while not stopping.is_set():
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waited:
                log.info("another writer ships this folder; waiting")
                waited = True
            time.sleep(RETRY_SECONDS)
        else:
            return descriptor
    return None


def tune_interpreter() -> None:
    """Set the interpreter to many small objects, made by one thread beside one that waits.

    Garbage is looked for once per page or so: an event makes a dozen objects, none in a cycle. And
    the thread that talks to the server gets its turn at once: by default each answer would wait
    5 ms for the thread that encodes the next page.
    """
    sys.setswitchinterval(0.0002)
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def run(settings: Settings) -> None:
    """Open the database, once it answers, and ship until SIGTERM or SIGINT."""
    stopping = stop_signal()
    if not wait_for_database(settings, stopping, told=_tell_waiting):
        return
    with opened_database(settings, pool_size=3, answer_ms=settings.writer_statement_ms) as database:
        directory = journal_dir(settings)
        writer = Writer(
            database,
            directory,
            interval_ms=settings.ship_interval_ms,
            keep_ms=settings.journal_keep_hours * 3_600_000,
            stopping=stopping,
        )
        lock = lock_folder(directory, stopping)
        if lock is None:
            return
        tune_interpreter()
        log.info("writer ships", folder=str(directory))
        writer.run()
        os.close(lock)


def _tell_waiting(pause_ms: int) -> None:
    log.error("the database does not answer; journals wait for it", pause_ms=pause_ms)


def main() -> None:
    """Start from the environment."""
    try:
        run(read_settings())
    except SteelyardError as error:
        end_process(error)


if __name__ == "__main__":
    main()
