"""What leaked in a period: the hours that were reconciled, and the one figure over them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import sqlalchemy as sa

from billing.metering.leakage import Reconciled, leakage
from billing.period import Period
from billing.store import leakage as store


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageReport:
    """Reconciled hours.

    Attributes:
        rows: by hour and name of the backend.
        overall: the leakage of all complete rows together; None without any.
    """

    rows: tuple[Reconciled, ...]
    overall: Fraction | None


def read_leakage(connection: sa.Connection, *, period: Period) -> LeakageReport:
    """The hours that begin in a period, in the operator's role."""
    rows = tuple(store.read_leakage(connection, period=period))
    return LeakageReport(rows=rows, overall=leakage(row for row in rows if row.complete))
