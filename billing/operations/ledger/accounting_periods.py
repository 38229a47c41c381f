"""Accounting periods of a legal entity: the calendar months of its books, closed in order."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.errors import Conflict, TieOutFailed
from billing.period import Period, month_of, zone
from billing.store import books as store
from billing.store.books import ClosedPeriod
from billing.tenancy.tenant import LegalEntity


def close_period(
    connection: sa.Connection,
    *,
    entity: LegalEntity,
    period: Period,
    closed_by: str,
    now: datetime,
) -> ClosedPeriod:
    """Close a month: nothing is ever posted into it again. There is no way back.

    Waits for transactions that are being posted, and keeps others waiting until commit.

    Args:
        closed_by: who answers for it.

    Raises:
        Conflict: it is closed, has not ended, is no month of the books, or an earlier one is open.
    """
    store.lock_closing(connection, entity.id)
    closed = store.closed_periods(connection, entity.id)
    if closed and period.end <= closed[-1].period.end:
        raise Conflict(
            "the period is closed",
            field="period",
            remedy="name the month after the last one that is closed",
        )
    calendar = zone(entity.zone)
    if month_of(period.start, calendar) != period:
        raise Conflict(
            "an accounting period is a calendar month in the zone of the legal entity",
            field="period",
            remedy="name a month, like 2026-11",
        )
    if period.end > now:
        raise Conflict(
            "the period has not ended", field="period", remedy="close it once it is over"
        )
    oldest = store.first_effective_at(connection, entity.id)
    opens = closed[-1].period.end if closed else oldest and month_of(oldest, calendar).start
    if opens is not None and (period.start > opens or (not closed and period.start < opens)):
        raise Conflict(
            "the next period to close is another one",
            field="period",
            remedy=f"close the month that begins at {opens:%Y-%m-%dT%H:%MZ} first",
        )
    store.insert_closed_period(
        connection, legal_entity_id=entity.id, period=period, closed_by=closed_by, now=now
    )
    return store.closed_periods(connection, entity.id)[-1]


def verify_closed_periods(connection: sa.Connection, *, entity: LegalEntity) -> int:
    """Check that every closed period still has the balances it was closed with; how many.

    Raises:
        TieOutFailed: one has not.
    """
    closed = store.closed_periods(connection, entity.id)
    for each in closed:
        found = store.trial_balance_digest(
            connection, legal_entity_id=entity.id, before=each.period.end
        )
        if found != each.digest:
            raise TieOutFailed(
                f"balances at the end of the period closed until {each.period.end:%Y-%m-%d} differ",
                field="accounting_period",
            )
    return len(closed)
