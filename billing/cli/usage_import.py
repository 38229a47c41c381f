"""Import of usage files: all rows are read before the first is written, then batch by batch.

A run that was cut off is repeated as a whole: rows that are in the ledger are told by their ids
and counted as duplicates. Resumed, it skips them: how far a file came is written in the
transaction of its rows, under the hash of the file and of what was said about it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import sqlalchemy as sa

from billing.cli.connect import connected
from billing.cli.output import progress
from billing.cli.sources import STDIN, opened
from billing.cli.usage_rows import Row, each_report, json_rows
from billing.cli.when import clock
from billing.errors import InvalidInput
from billing.metering.usage_event import UsageReport, Verdict, VerdictKind
from billing.operations.metering.import_usage import import_batch, rows_imported
from billing.operations.tenancy.tenants import require_tenant
from billing.planfiles.usage_table import csv_rows, parquet_rows
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
        skipped: rows of a resumed file that were in the ledger before.
        problems: the first rows that were conflicting, rejected or parked.
    """

    rows: int = 0
    skipped: int = 0
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


Batch = list[tuple[int, UsageReport | InvalidInput]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file that is imported; `digest` is its own and that of the source that was named."""

    rows: IO[bytes]
    form: str
    source: str | None
    digest: bytes

    def reports(self) -> Iterator[tuple[int, UsageReport | InvalidInput]]:
        """What its rows report, from the first one."""
        self.rows.seek(0)
        match self.form:
            case ".csv":
                found: Iterator[tuple[int, Row]] = csv_rows(self.rows)
            case ".parquet":
                found = parquet_rows(self.rows)
            case _:
                found = json_rows(self.rows)
        return each_report(found, source=self.source)


def import_usage(
    path: str,
    *,
    tenant: str,
    source: str | None,
    rejected: Path | None,
    resume: bool,
    quiet: bool,
) -> Imported:
    """Import a file of usage events for a tenant.

    Args:
        rejected: where rows that were refused are written; None: a malformed row stops the run
            before anything is written.
        resume: skip the rows that an earlier run of the same file has committed.

    Raises:
        InvalidInput: a malformed row; nothing is written.
        NotFound: no such tenant.
    """
    with _twice_readable(path) as rows, progress(hidden=quiet) as bar, connected() as database:
        file = _File(rows=rows, form=Path(path).suffix, source=source, digest=_digest(rows, source))
        checking = bar.add_task("checking", total=None)
        count = _checked(file, lenient=rejected is not None)
        bar.update(checking, total=count, completed=count)
        importing = bar.add_task("importing", total=count)
        imported = Imported()
        with database.transaction(Role.OPERATOR) as connection:
            owner = require_tenant(connection, tenant)
        # Where no worker runs, nobody else makes the month's partition.
        with database.transaction(Role.INGEST) as connection:
            ensure_partitions(connection, now=clock())
            if resume:
                imported.skipped = rows_imported(connection, tenant_id=owner.id, digest=file.digest)
        with _refusals(rejected) as refusals:
            for batch in _batches(islice(file.reports(), imported.skipped, None)):
                done = imported.skipped + imported.rows + len(batch)
                for (line, _), verdict in zip(
                    batch, _ingest(database, owner, batch, file.digest, done), strict=True
                ):
                    imported.add(line, verdict)
                    _write_refusal(refusals, line, verdict)
                bar.update(importing, completed=done)
    return imported


def _digest(rows: IO[bytes], source: str | None) -> bytes:
    digest = hashlib.sha256((source or "").encode())
    digest.update(b"\0")
    while block := rows.read(1 << 20):
        digest.update(block)
    return digest.digest()


def _checked(file: _File, *, lenient: bool) -> int:
    """How many rows there are; the first malformed one is raised unless it may be refused alone."""
    count = 0
    for _, found in file.reports():
        if isinstance(found, InvalidInput) and not lenient:
            raise found
        count += 1
    return count


def _ingest(
    database: Database, tenant: Tenant, batch: Batch, digest: bytes, done: int
) -> list[Verdict]:
    reports = [found for _, found in batch if isinstance(found, UsageReport)]

    def ingest(connection: sa.Connection) -> list[Verdict]:
        return import_batch(
            connection, reports, tenant=tenant, digest=digest, rows_done=done, now=clock()
        )

    verdicts = iter(database.retrying(Role.INGEST, ingest))
    return [
        Verdict(kind=VerdictKind.REJECTED, reason=str(found))
        if isinstance(found, InvalidInput)
        else next(verdicts)
        for _, found in batch
    ]


def _batches(rows: Iterable[tuple[int, UsageReport | InvalidInput]]) -> Iterator[Batch]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        yield batch


@contextmanager
def _refusals(path: Path | None) -> Generator[IO[str] | None]:
    """The file for refused rows, if one was asked for.

    Raises:
        InvalidInput: it cannot be written.
    """
    if path is None:
        yield None
        return
    try:
        target = path.open("w", encoding="utf-8")
    except OSError:
        raise InvalidInput(
            "cannot be written", field="rejected", remedy="check the folder and its rights"
        ) from None
    with target:
        yield target


def _write_refusal(refusals: IO[str] | None, line: int, verdict: Verdict) -> None:
    if refusals is not None and verdict.kind in REFUSALS:
        row = {"line": line, "verdict": verdict.kind.value, "reason": verdict.reason}
        refusals.write(f"{json.dumps(row, ensure_ascii=False)}\n")


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
