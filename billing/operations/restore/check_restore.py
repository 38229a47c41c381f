"""What a database that was restored from a backup is missing, and how it comes back.

Compares the database with what outlived it: the kept journals, the places in them that the
database remembers, and a signed head that somebody kept. Changes nothing. What was never in a
journal and is younger than the backup (reported usage, invoices, payments) is not visible here:
reporters send again under the same ids, and Stripe is asked about open mirrors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from billing.journal.reader import end_of_records, list_instances, segments
from billing.operations.restore.kept_records import Unreadable, kept_pages
from billing.store.restore import cursors, unfinished_mirrors, unknown_outcomes
from billing.store.seal.folds import folds
from billing.store.usage.parked import CursorRow

REPLAY: Final = "steelyard journal replay --all"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFinding:
    """One thing that is missing.

    Attributes:
        code: `missing_records`, `unshipped_segments_gone`, `journal_gone`, `cursor_ahead`,
            `damaged_journal`, `lost_epochs`, `open_mirrors`.
        instance: the journal that it concerns, if any.
        lost: whether it cannot be had from anywhere that was looked at.
    """

    code: str
    what: str
    remedy: str
    instance: str | None = None
    lost: bool = False


@dataclass(slots=True)
class RestoreCheck:
    """What was compared and what is missing."""

    instances: int = 0
    records: int = 0
    missing: int = 0
    findings: list[RestoreFinding] = field(default_factory=list[RestoreFinding])


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptHead:
    """A signed head that was kept outside the database: size and root of the operator's tree."""

    size: int
    root: bytes


def check_restore(
    connection: sa.Connection, directory: Path, *, kept_head: KeptHead | None = None
) -> RestoreCheck:
    """Compare, as the operator.

    Args:
        directory: of the journals.
        kept_head: the newest head that was published before the restore, if one was kept.
    """
    check = RestoreCheck()
    _compare_records(connection, directory, check)
    _compare_places(cursors(connection), directory, check)
    if kept_head is not None:
        _compare_heads(connection, kept_head, check)
    open_mirrors = unfinished_mirrors(connection)
    if open_mirrors:
        check.findings.append(
            RestoreFinding(
                code="open_mirrors",
                what=f"{open_mirrors} invoices are not known to be finished at Stripe",
                remedy="start the worker: it looks them up at Stripe before it sends anything",
            )
        )
    return check


def _compare_records(connection: sa.Connection, directory: Path, check: RestoreCheck) -> None:
    check.instances = len(list_instances(directory))
    missing: dict[str, int] = {}
    for page in kept_pages(directory, since=None):
        if isinstance(page, Unreadable):
            check.findings.append(
                RestoreFinding(
                    code="damaged_journal",
                    what=page.reason,
                    remedy="restore the file from a copy",
                    instance=page.instance,
                )
            )
            continue
        check.records += len(page.records)
        unknown = unknown_outcomes(connection, [UUID(bytes=record.id) for record in page.records])
        if unknown:
            missing[page.instance] = missing.get(page.instance, 0) + len(unknown)
    check.missing = sum(missing.values())
    check.findings += [
        RestoreFinding(
            code="missing_records",
            what=f"{count} records of a kept journal are not in the ledger",
            remedy=REPLAY,
            instance=instance,
        )
        for instance, count in missing.items()
    ]


def _compare_places(known: dict[str, CursorRow], directory: Path, check: RestoreCheck) -> None:
    """A ledger that remembers other journals than lie here was restored beside other folders."""
    folders = {folder.name: segments(folder) for folder in list_instances(directory)}
    for instance, place in known.items():
        kept = folders.get(instance)
        if not kept:
            if not place.finished:
                check.findings.append(_gone(instance))
            continue
        newest = kept[-1]
        end = end_of_records(newest.path)
        if (place.segment, place.next_offset) > (newest.number, end):
            check.findings.append(
                RestoreFinding(
                    code="cursor_ahead",
                    what="the ledger has read further than the journal reaches: the folder is "
                    "older than the database",
                    remedy="restore the newest copy of the journal's folder",
                    instance=instance,
                )
            )
        elif not place.finished and kept[0].number > max(place.segment, 1):
            check.findings.append(
                RestoreFinding(
                    code="unshipped_segments_gone",
                    what=f"segments before {kept[0].number} are gone, and the ledger had read up "
                    f"to segment {place.segment}",
                    remedy="restore them from a copy, or keep segments longer than backups are "
                    "apart: STEELYARD_JOURNAL_KEEP_HOURS",
                    instance=instance,
                    lost=True,
                )
            )


def _gone(instance: str) -> RestoreFinding:
    return RestoreFinding(
        code="journal_gone",
        what="the folder of a journal that was not read to its end is not here",
        remedy="restore it from a copy, or account for its loss by hand",
        instance=instance,
        lost=True,
    )


def _compare_heads(connection: sa.Connection, kept: KeptHead, check: RestoreCheck) -> None:
    known = {fold.size: fold for fold in folds(connection)}
    newest = max(known, default=0)
    if kept.size > newest:
        check.findings.append(
            RestoreFinding(
                code="lost_epochs",
                what=f"the newest signed head has size {newest}, one of size {kept.size} was "
                "published",
                remedy=f"{REPLAY}; heads after {newest} are then signed anew, so publish the "
                "restore together with the head that was kept",
            )
        )
    elif kept.size not in known or known[kept.size].root != kept.root:
        check.findings.append(
            RestoreFinding(
                code="lost_epochs",
                what=f"the signed head of size {kept.size} is not the one that was published",
                remedy="the ledger was sealed again after a restore: tell those who kept a head",
                lost=True,
            )
        )
