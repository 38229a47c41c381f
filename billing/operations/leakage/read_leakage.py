"""What leaked in a period: the hours that were reconciled, and the one figure over them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

import sqlalchemy as sa

from billing.margin.figures import percent_for_display
from billing.metering.leakage import Reconciled, leakage
from billing.money import plain
from billing.period import Period
from billing.store import leakage as store

RECENT = timedelta(days=1)
DECIMALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageReport:
    """Reconciled hours.

    Attributes:
        rows: by hour and name of the backend.
        overall: the leakage of all complete rows together; None without any.
    """

    rows: tuple[Reconciled, ...]
    overall: Fraction | None


def read_leakage(
    connection: sa.Connection, *, period: Period, limit: int | None = None
) -> LeakageReport:
    """The hours that begin in a period, or the newest `limit` of them, in the operator's role."""
    rows = tuple(store.read_leakage(connection, period=period, limit=limit))
    return LeakageReport(rows=rows, overall=leakage(row for row in rows if row.complete))


def newest_leakage(connection: sa.Connection, *, now: datetime) -> list[Reconciled]:
    """The newest complete hour of each backend that had one in the last day."""
    return store.newest_complete(connection, since=now - RECENT)


def leakage_percent(ratio: Fraction | None) -> str | None:
    """A leakage in percent as text, rounded half up to 3 decimals; None stays None."""
    shown = percent_for_display(ratio, decimals=DECIMALS)
    return None if shown is None else plain(shown)
