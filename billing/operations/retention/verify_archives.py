"""Check that archives still hold what left the database, by three independent records of it.

The file against its checksum; its rows, through the statements that read the ledger, against the
totals taken when it was written and against the sealed leaves. A file and a manifest that were
both forged still meet the seal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from billing.archive.parquet import DamagedArchive, columns_of, read_events
from billing.archive.places import ArchivePlace, ArchiveUnavailable, sha256_of
from billing.errors import NotFound
from billing.ledger.tree import HASH_BYTES
from billing.money import EXACT
from billing.operations.retention.archive_details import wrong_detail
from billing.store import retention
from billing.store.archive_details import details_of
from billing.store.retention import ArchiveRow
from billing.store.seal.folds import FoldRow, fold_of_epoch, heads_of_fold
from billing.store.seal.hashes import StoredTree, split_hashes
from billing.store.seal.records import usage_leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFinding:
    """What is wrong with one archive.

    Attributes:
        what: one sentence; names an event where one is to blame.
    """

    month: date
    url: str
    what: str


def verify_archives(
    connection: sa.Connection,
    place: ArchivePlace,
    *,
    month: date | None = None,
    keep_leaves: Callable[[Sequence[bytes]], None] = lambda _: None,
    keep_readings: Callable[[date], None] = lambda _: None,
    progress: Callable[[int, int], None] | None = None,
) -> list[ArchiveFinding]:
    """What is wrong with the archives, or with that of one month; empty if all is well.

    Args:
        connection: the operator's; needs no snapshot.
        keep_leaves: called with the leaves that were rebuilt from archived events.
        keep_readings: called with the month of archived events while they are staged.
        progress: called with (archives checked, archives in all).
    """
    known = retention.archives(connection, month=month)
    found: list[ArchiveFinding] = []
    for number, archive in enumerate(known, start=1):
        found += verify_archive(
            connection, place, archive, keep_leaves=keep_leaves, keep_readings=keep_readings
        )
        if progress is not None:
            progress(number, len(known))
    return found


def verify_archive(
    connection: sa.Connection,
    place: ArchivePlace,
    archive: ArchiveRow,
    *,
    keep_leaves: Callable[[Sequence[bytes]], None] = lambda _: None,
    keep_readings: Callable[[date], None] = lambda _: None,
) -> list[ArchiveFinding]:
    """What is wrong with one archive; see `verify_archives`."""

    def finding(what: str) -> list[ArchiveFinding]:
        return [ArchiveFinding(month=archive.month, url=archive.url, what=what)]

    try:
        with place.open(file_name(archive)) as file:
            if sha256_of(file) != archive.sha256:
                return finding("the file is not the one that was written: its checksum differs")
            file.seek(0)
            what = _verify_rows(connection, archive, file, keep_leaves, keep_readings)
        what = what or wrong_detail(place, details_of(connection, archive.id))
    except (NotFound, ArchiveUnavailable, DamagedArchive) as error:
        return finding(error.message)
    except OSError as error:
        return finding(f"the file cannot be read: {type(error).__name__}")
    return [] if what is None else finding(what)


def file_name(archive: ArchiveRow) -> str:
    """The name of an archive's file in its place."""
    return archive.url.rpartition("/")[2]


def _verify_rows(
    connection: sa.Connection,
    archive: ArchiveRow,
    file: IO[bytes],
    keep_leaves: Callable[[Sequence[bytes]], None],
    keep_readings: Callable[[date], None],
) -> str | None:
    columns = columns_of(file)
    if columns != retention.archived_columns(connection):
        return "its columns are not those of the ledger"
    totals: retention.Totals = {}
    leaves = _SealedLeaves(connection)
    events = 0
    retention.stage_archived(connection)
    try:
        for rows in read_events(file, columns):
            events += len(rows)
            retention.fill_staged(connection, columns, rows)
            keep_readings(archive.month)
            for key, added in retention.staged_totals(connection, archive.month).items():
                known = totals.get(key, (Decimal(0), 0))
                # Not by `+`, which rounds to 28 digits: fingerprints of unique values have more.
                totals[key] = (EXACT.add(known[0], added[0]), known[1] + added[1])
            unsealed = _first_unsealed(connection, leaves, columns, rows, keep_leaves)
            if unsealed is not None:
                return f"event {unsealed} is not as it was sealed"
    finally:
        # After an error the transaction is lost, and the temporary table with it.
        with suppress(DBAPIError):
            retention.unstage_archived(connection)
    if events != archive.events:
        return f"it holds {events} events instead of {archive.events}"
    if totals != retention.archived_totals(connection, archive.id):
        return "its totals are not those that were taken when it was written"
    return None


def _first_unsealed(
    connection: sa.Connection,
    sealed: _SealedLeaves,
    columns: dict[str, str],
    rows: Sequence[tuple[Any, ...]],
    keep_leaves: Callable[[Sequence[bytes]], None],
) -> Any:
    """The first event of a batch whose record, rebuilt from its columns, is in no sealed leaf."""
    names = list(columns)
    epoch_at, id_at = names.index("epoch"), names.index("id")
    epochs = {row[id_at]: row[epoch_at] for row in rows}
    runs = usage_leaves(
        connection, after=min(epochs.values()) - 1, to=max(epochs.values()), archived=True
    )
    for leaf_run in runs:
        hashes = split_hashes(leaf_run.leaves)
        for event, leaf in zip(leaf_run.ids, hashes, strict=True):
            if leaf not in sealed.of(leaf_run.owner, epochs[event]):
                return event
        keep_leaves(hashes)
    return None


@dataclass(slots=True)
class _SealedLeaves:
    """The leaves of one fold at a time: an archive is ordered by epoch, as folds are."""

    connection: sa.Connection
    _fold: FoldRow | None = None
    _leaves: dict[str, frozenset[bytes]] = field(default_factory=dict[str, frozenset[bytes]])

    def of(self, tenant_id: int, epoch: int) -> frozenset[bytes]:
        """Leaves of a tenant that the fold of an epoch added; none if no fold has it."""
        fold = self._fold
        if fold is None or not fold.epoch_after < epoch <= fold.epoch_to:
            self._turn_to(epoch)
        return self._leaves.get(f"usage:{tenant_id}", frozenset())

    def _turn_to(self, epoch: int) -> None:
        self._fold = fold_of_epoch(self.connection, epoch)
        self._leaves = {} if self._fold is None else self._leaves_of(self._fold)

    def _leaves_of(self, fold: FoldRow) -> dict[str, frozenset[bytes]]:
        found: dict[str, frozenset[bytes]] = {}
        for head in heads_of_fold(self.connection, fold.size):
            tree = StoredTree(self.connection, head.tree_id)
            joined = tree.hashes(0, head.size - head.added, head.added)
            found[head.name] = frozenset(
                joined[at : at + HASH_BYTES] for at in range(0, len(joined), HASH_BYTES)
            )
        return found
