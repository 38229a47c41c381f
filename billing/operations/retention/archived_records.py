"""Canonical records of events that have left the database, read back from their archives in order.

Rows are staged in a table like the ledger's and read by the ledger's own statement, so that the
record is the one that was sealed. Whether it is, is for the caller to compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from billing.archive.parquet import columns_of, read_events
from billing.archive.places import ArchivePlace
from billing.operations.retention.verify_archives import file_name
from billing.store import retention
from billing.store.retention import ArchiveRow
from billing.store.seal.records import Recorded, usage_records


@dataclass(slots=True)
class ArchivedRecords:
    """The archived records of one tenant. Stretches of epochs are asked for in order.

    Memory is bounded by a group of rows of each archive that is read.
    """

    connection: sa.Connection
    place: ArchivePlace
    tenant_id: int = field(kw_only=True)
    _files: ExitStack = field(default_factory=ExitStack)
    _months: list[_Month] = field(default_factory=list["_Month"])

    def __enter__(self) -> Self:
        gone = retention.dropped_months(self.connection)
        self._months = [
            _Month(archive=archive)
            for archive in retention.archives(self.connection)
            if archive.month in gone
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.close()

    def read(self, *, after: int, to: int) -> list[Recorded]:
        """The records of the epochs in (after, to].

        Raises:
            NotFound, ArchiveUnavailable, DamagedArchive: an archive cannot be read.
        """
        found: list[Recorded] = []
        for month in self._months:
            if month.overlaps(after, to):
                found += self._read(month, after=after, to=to)
        return found

    def _read(self, month: _Month, *, after: int, to: int) -> list[Recorded]:
        if month.groups is None:
            file = self._files.enter_context(self.place.open(file_name(month.archive)))
            month.columns = columns_of(file)
            month.groups = read_events(file, month.columns)
        rows = month.take(self.tenant_id, after=after, to=to)
        if not rows:
            return []
        retention.stage_archived(self.connection)
        retention.fill_staged(self.connection, month.columns, rows)
        records = usage_records(
            self.connection, tenant_id=self.tenant_id, after=after, to=to, archived=True
        )
        retention.unstage_archived(self.connection)
        return records


@dataclass(slots=True, kw_only=True)
class _Month:
    """One archive while it is read: rows lie by (epoch, id)."""

    archive: ArchiveRow
    columns: dict[str, str] = field(default_factory=dict[str, str])
    groups: Iterator[list[tuple[Any, ...]]] | None = None
    ahead: list[tuple[Any, ...]] = field(default_factory=list[tuple[Any, ...]])

    def overlaps(self, after: int, to: int) -> bool:
        """Whether it has events of the epochs in (after, to]."""
        first, last = self.archive.first_epoch, self.archive.last_epoch
        return first is not None and last is not None and first <= to and last > after

    def take(self, tenant_id: int, *, after: int, to: int) -> list[tuple[Any, ...]]:
        """The tenant's rows of the epochs in (after, to]; those before are passed for good."""
        assert self.groups is not None
        names = list(self.columns)
        epoch_at, tenant_at = names.index("epoch"), names.index("tenant_id")
        taken: list[tuple[Any, ...]] = []
        while True:
            if not self.ahead:
                group = next(self.groups, None)
                if group is None:
                    return taken
                last = group[-1][epoch_at]
                self.ahead = [row for row in group if row[tenant_at] == tenant_id]
                if not self.ahead:
                    if last > to:
                        return taken
                    continue
            taken += [row for row in self.ahead if after < row[epoch_at] <= to]
            self.ahead = [row for row in self.ahead if row[epoch_at] > to]
            if self.ahead:
                return taken
