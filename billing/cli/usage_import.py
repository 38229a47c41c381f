"""Import of usage files: all rows are read before the first is written, then batch by batch.

A run that was cut off is repeated as a whole: rows that are in the ledger are told by their ids
and counted as duplicates.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

from billing.cli.connect import connected
from billing.cli.output import progress
from billing.cli.sources import STDIN, opened
from billing.cli.usage_rows import read_reports
from billing.cli.when import clock
from billing.metering.usage_event import UsageReport, Verdict, VerdictKind
from billing.operations.metering.ingest_usage import ingest_usage
from billing.operations.tenancy.tenants import require_tenant
from billing.store.database import Database, Role
from billing.store.usage.append import ensure_partitions
from billing.tenancy.tenant import Tenant

BATCH = 5_000
"""Rows of one transaction and epoch."""

PROBLEMS_SHOWN = 20

REFUSALS = frozenset({VerdictKind.CONFLICTING, VerdictKind.REJECTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A row that is not in the ledger as a result of this run."""

    line: int
    verdict: VerdictKind
    reason: str | None


@dataclass(slots=True, kw_only=True)
class Imported:
    """What became of the rows of a file.

    Attributes:
        problems: the first rows that were conflicting, rejected or parked.
    """

    rows: int = 0
    verdicts: Counter[VerdictKind] = field(default_factory=Counter[VerdictKind])
    problems: list[Problem] = field(default_factory=list[Problem])

    @property
    def refused(self) -> bool:
        """Whether a row was refused for good."""
        return any(self.verdicts[kind] for kind in REFUSALS)

    def add(self, line: int, verdict: Verdict) -> None:
        """Count one row's verdict."""
        self.rows += 1
        self.verdicts[verdict.kind] += 1
        noteworthy = verdict.kind in REFUSALS or verdict.kind is VerdictKind.PARKED
        if noteworthy and len(self.problems) < PROBLEMS_SHOWN:
            problem = Problem(line=line, verdict=verdict.kind, reason=verdict.reason)
            self.problems.append(problem)


def import_usage(path: str, *, tenant: str, source: str | None, quiet: bool) -> Imported:
    """Import a file of usage events for a tenant.

    Raises:
        InvalidInput: a malformed row; nothing is written.
        NotFound: no such tenant.
    """
    with _twice_readable(path) as rows, progress(hidden=quiet) as bar:
        checking = bar.add_task("checking", total=None)
        count = sum(1 for _ in read_reports(rows, source=source))
        bar.update(checking, total=count, completed=count)
        rows.seek(0)
        importing = bar.add_task("importing", total=count)
        imported = Imported()
        with connected() as database:
            with database.transaction(Role.OPERATOR) as connection:
                owner = require_tenant(connection, tenant)
            # Where no worker runs, nobody else makes the month's partition.
            with database.transaction(Role.INGEST) as connection:
                ensure_partitions(connection, now=clock())
            for batch in _batches(read_reports(rows, source=source)):
                for (line, _), verdict in zip(batch, _ingest(database, owner, batch), strict=True):
                    imported.add(line, verdict)
                bar.update(importing, completed=imported.rows)
    return imported


def _ingest(
    database: Database, tenant: Tenant, batch: list[tuple[int, UsageReport]]
) -> list[Verdict]:
    reports = [report for _, report in batch]
    return database.retrying(
        Role.INGEST,
        lambda connection: ingest_usage(connection, reports, tenant=tenant, now=clock()),
    )


def _batches(
    rows: Iterable[tuple[int, UsageReport]],
) -> Iterator[list[tuple[int, UsageReport]]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


@contextmanager
def _twice_readable(path: str) -> Generator[IO[bytes]]:
    """A file that can be read again; standard input is kept in a temporary file meanwhile."""
    with opened(path) as source:
        if path != STDIN:
            yield source
            return
        with tempfile.TemporaryFile() as kept:
            shutil.copyfileobj(source, kept)
            kept.seek(0)
            yield kept
