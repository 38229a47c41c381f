"""Table cost_statement: what a period cost, as its operator stated it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.period import Period
from billing.store.database import first, members, run


@dataclass(frozen=True, slots=True, kw_only=True)
class CostStatementRow:
    """A stored statement; `source` is the text of the file it came from."""

    id: int
    period_start: datetime
    period_end: datetime
    currency: str
    booked: Decimal
    source: str
    recorded_at: datetime


def insert_statement(
    connection: sa.Connection,
    *,
    period: Period,
    currency: str,
    booked: Decimal,
    source: str,
    digest: bytes,
    now: datetime,
) -> None:
    """Add a statement; a later one of the same period replaces it in reports, not in the table."""
    run(
        connection,
        "INSERT INTO cost_statement (period_start, period_end, currency, booked, source, digest, "
        "recorded_at) VALUES (:start, :end, :currency, :booked, :source, :digest, :now)",
        start=period.start,
        end=period.end,
        currency=currency,
        booked=booked,
        source=source,
        digest=digest,
        now=now,
    )


def statement(connection: sa.Connection, *, period: Period) -> CostStatementRow | None:
    """The newest statement of exactly this period."""
    row = first(
        connection,
        "SELECT id, period_start, period_end, currency, booked, source, recorded_at "
        "FROM cost_statement WHERE period_start = :start AND period_end = :end "
        "ORDER BY id DESC LIMIT 1",
        start=period.start,
        end=period.end,
    )
    return None if row is None else CostStatementRow(**members(row))
