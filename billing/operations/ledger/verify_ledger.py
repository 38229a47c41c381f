"""Verify both ledgers at once: seal, archives, rollups, postings, credit, closed periods.

Each part names what is wrong; none stops the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from billing.archive.places import ArchivePlace
from billing.errors import TieOutFailed
from billing.operations.ledger.accounting_periods import verify_closed_periods
from billing.operations.ledger.verify_balances import verify_balances
from billing.operations.metering.verify_rollups import verify_rollups
from billing.operations.retention.verify_archives import verify_archives
from billing.operations.seal.verify import Finding, verify_books, verify_seal
from billing.period import Period, month_of, zone
from billing.store import retention, tie_outs
from billing.store.books import account_differences
from billing.store.tenancy import legal_entities
from billing.store.usage import carried_levels

Progress = Callable[[str, int, int | None], None]
"""Told what is verified, how much of it is done, and of how much if that is known."""


def verify_ledger(
    connection: sa.Connection,
    place: ArchivePlace,
    *,
    progress: Progress = lambda _part, _done, _total: None,
) -> list[Finding]:
    """Everything in either ledger that is not as it was written; empty when all is well.

    Args:
        connection: the operator's, in one snapshot; temporary tables are made on it.
        place: where the archives are.
    """
    found = _archives(connection, place, progress)
    # The events of a dropped month are in its archive, which was compared with the seal above.
    found += verify_seal(
        connection,
        elsewhere=partial(retention.is_kept_leaf, connection),
        progress=partial(progress, "signed heads"),
    )
    progress("postings", 0, None)
    found += verify_books(connection)
    found += _accounts(connection)
    progress("credit and receivables", 0, None)
    found += verify_balances(connection)
    found += _closed_periods(connection)
    found += [
        Finding(kind="archive", subject=str(month), problem="it did not leave as its archive says")
        for month in tie_outs.wrong_horizons(connection)
    ]
    progress("rollups", 0, None)
    found += [
        Finding(
            kind="rollup",
            subject=" ".join(str(part) for part in astuple(difference)),
            problem="it is not the sum of its events",
        )
        for difference in verify_rollups(connection)
    ]
    return found


def _archives(connection: sa.Connection, place: ArchivePlace, progress: Progress) -> list[Finding]:
    """Archives, and the levels that months left behind; leaves stay staged for the seal."""
    retention.stage_leaves(connection)
    carried_levels.stage_readings(connection)
    archives = verify_archives(
        connection,
        place,
        keep_leaves=partial(retention.keep_leaves, connection),
        keep_readings=partial(carried_levels.keep_readings, connection),
        progress=partial(progress, "archives"),
    )
    unread = {each.month for each in archives}
    return [
        *(Finding(kind="archive", subject=each.url, problem=each.what) for each in archives),
        *(
            Finding(
                kind="level",
                subject=str(event),
                problem="what its month left behind is not the last reading in its archive",
            )
            for event in carried_levels.wrong_levels(connection, unread=unread)
        ),
    ]


def _accounts(connection: sa.Connection) -> list[Finding]:
    found = [
        Finding(
            kind="account",
            subject=str(account),
            problem="its versions or balances are not those of its postings",
        )
        for account in account_differences(connection)
    ]
    found += [
        Finding(
            kind="account",
            subject=str(account),
            problem=f"transaction {transaction} posted on it, and does not belong on it",
        )
        for account, transaction in tie_outs.misplaced_postings(connection)
    ]
    found += [
        Finding(
            kind="account", subject=str(account), problem="its balance is shown as another tenant's"
        )
        for account in tie_outs.foreign_balances(connection)
    ]
    return found


def _closed_periods(connection: sa.Connection) -> list[Finding]:
    found: list[Finding] = []
    for entity in legal_entities(connection):
        try:
            verify_closed_periods(connection, entity=entity)
        except TieOutFailed as error:
            found.append(Finding(kind="period", subject=entity.slug, problem=error.message))
    before: dict[int, datetime] = {}
    for each in tie_outs.closed_books(connection):
        follows = before.get(each.legal_entity_id, each.start)
        before[each.legal_entity_id] = each.end
        if each.zone is None or not _is_month(each, zone(each.zone)) or each.start != follows:
            found.append(
                Finding(
                    kind="period",
                    subject=f"{each.legal_entity_id} until {each.end:%Y-%m-%d}",
                    problem="it is no month of a legal entity, or does not follow the one before",
                )
            )
    return found


def _is_month(closed: tie_outs.ClosedBooks, calendar: ZoneInfo) -> bool:
    return month_of(closed.start, calendar) == Period(start=closed.start, end=closed.end)
