"""What lines of bills earned by day, and what credit paid of them: tables posting, credit_event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.earning import LINE_ACCOUNTS
from billing.period import Period
from billing.store.database import members, only, query


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A rated line of a billing period, on one local day of its tenant."""

    contract_id: int
    period_start: datetime
    line_key: str
    day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedAmount:
    """An amount on a line and day, in major units at 12 decimals."""

    place: Place
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UseRow:
    """What one grant paid on a line and day, above zero."""

    grant_id: UUID
    place: Place
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedRow:
    """What was applied of one grant to one contract's billing period, as a positive amount.

    Attributes:
        line_key: of the grant on an invoice.
        source: what it was granted for.
    """

    line_key: str
    source: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementRow:
    """One change of a grant: above zero adds to the credit.

    Attributes:
        source: what the grant was given for.
        line_key, day: what usage it paid or came back from.
        invoice_id: what it was redeemed on.
    """

    grant_id: UUID
    source: str
    kind: str
    amount: Decimal
    recorded_at: datetime
    line_key: str | None
    day: date | None
    invoice_id: UUID | None


def earned_by_day(
    connection: sa.Connection, *, tenant_id: int, currency: str, period: Period, zone: str
) -> list[PlacedAmount]:
    """What lines earned by local day, of either sign: a correction lowers its own day.

    Of the lines of billing periods that start in the period.
    """
    rows = query(
        connection,
        "SELECT p.contract_id, p.period_start, p.line_key, "
        "CAST(t.effective_at AT TIME ZONE :zone AS date) AS day, -sum(p.amount) AS amount "
        "FROM posting p JOIN account a ON a.id = p.account_id "
        "JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE a.code = ANY(:earned_on) AND a.tenant_id = :tenant AND a.currency = :currency "
        "AND p.period_start >= :start AND p.period_start < :end GROUP BY 1, 2, 3, 4 "
        "HAVING sum(p.amount) <> 0",
        zone=zone,
        earned_on=[code.value for code in LINE_ACCOUNTS],
        tenant=tenant_id,
        currency=currency,
        start=period.start,
        end=period.end,
    )
    return [PlacedAmount(place=_place(row), amount=row.amount) for row in rows]


def applied_by_day(
    connection: sa.Connection, *, tenant_id: int, currency: str, period: Period
) -> list[PlacedAmount]:
    """What credit has paid so far and was not given back, by line and day."""
    rows = query(
        connection,
        "SELECT e.contract_id, e.period_start, e.line_key, e.day, "
        "sum(CASE e.kind WHEN 'applied' THEN e.amount ELSE -e.amount END) AS amount "
        "FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.kind IN ('applied', 'restored') AND e.tenant_id = :tenant "
        "AND g.currency = :currency "
        "AND e.period_start >= :start AND e.period_start < :end GROUP BY 1, 2, 3, 4",
        tenant=tenant_id,
        currency=currency,
        start=period.start,
        end=period.end,
    )
    return [PlacedAmount(place=_place(row), amount=row.amount) for row in rows]


def used_by_grant(
    connection: sa.Connection, *, contract_id: int, period_start: datetime
) -> list[UsedRow]:
    """What credit has paid of a contract's billing period so far, by grant, oldest first."""
    rows = query(
        connection,
        "SELECT 'credit.' || g.id AS line_key, g.source, "
        "sum(CASE e.kind WHEN 'applied' THEN e.amount ELSE -e.amount END) AS amount "
        "FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.kind IN ('applied', 'restored') AND e.contract_id = :contract "
        "AND e.period_start = :start "
        "GROUP BY g.id ORDER BY g.granted_at, g.id",
        contract=contract_id,
        start=period_start,
    )
    return [UsedRow(**members(row)) for row in rows]


def uses_of_line(
    connection: sa.Connection, *, contract_id: int, period_start: datetime, line_key: str
) -> list[UseRow]:
    """What each grant paid of one line by day, as far as it was not given back."""
    rows = query(
        connection,
        "SELECT * FROM (SELECT e.grant_id, e.contract_id, e.period_start, e.line_key, e.day, "
        "sum(CASE e.kind WHEN 'applied' THEN e.amount ELSE -e.amount END) AS amount "
        "FROM credit_event e WHERE e.kind IN ('applied', 'restored') "
        "AND e.contract_id = :contract AND e.period_start = :start AND e.line_key = :line "
        "GROUP BY 1, 2, 3, 4, 5) u WHERE u.amount > 0",
        contract=contract_id,
        start=period_start,
        line=line_key,
    )
    return [UseRow(grant_id=row.grant_id, place=_place(row), amount=row.amount) for row in rows]


def credit_before(
    connection: sa.Connection, *, tenant_id: int, currency: str, instant: datetime
) -> Decimal:
    """What remained of a tenant's credit before an instant, by what was recorded until then."""
    return only(
        connection,
        "SELECT coalesce(sum(CASE WHEN e.kind IN ('granted', 'restored') THEN e.amount "
        "ELSE -e.amount END), 0) AS amount FROM credit_event e "
        "JOIN credit_grant g ON g.id = e.grant_id WHERE e.tenant_id = :tenant "
        "AND g.currency = :currency AND e.recorded_at < :instant",
        tenant=tenant_id,
        currency=currency,
        instant=instant,
    ).amount


def movements(
    connection: sa.Connection, *, tenant_id: int, currency: str, period: Period
) -> list[MovementRow]:
    """Every change of a tenant's grants that was recorded in a period, in order."""
    rows = query(
        connection,
        "SELECT e.grant_id, g.source, e.kind, CASE WHEN e.kind IN ('granted', 'restored') "
        "THEN e.amount ELSE -e.amount END AS amount, e.recorded_at, e.line_key, e.day, "
        "e.invoice_id FROM credit_event e JOIN credit_grant g ON g.id = e.grant_id "
        "WHERE e.tenant_id = :tenant AND g.currency = :currency "
        "AND e.recorded_at >= :start AND e.recorded_at < :end ORDER BY e.recorded_at, e.id",
        tenant=tenant_id,
        currency=currency,
        start=period.start,
        end=period.end,
    )
    return [MovementRow(**members(row)) for row in rows]


def _place(row: sa.Row[Any]) -> Place:
    return Place(
        contract_id=row.contract_id,
        period_start=row.period_start,
        line_key=row.line_key,
        day=row.day,
    )
