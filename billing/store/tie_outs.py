"""Figures and names that stand in two places and must agree: what `ledger verify` compares.

Each function names the rows that do not; none of them changes anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

import sqlalchemy as sa

from billing.store.database import query


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBooks:
    """A closed accounting period and the zone of its legal entity; None if there is none such."""

    legal_entity_id: int
    zone: str | None
    start: datetime
    end: datetime


def misplaced_postings(connection: sa.Connection) -> list[tuple[int, UUID]]:
    """Accounts that are not those of their postings: of another entity, tenant or currency.

    Returns:
        (account id, transaction id) of each such posting.
    """
    rows = query(
        connection,
        "SELECT p.account_id, p.transaction_id FROM posting p "
        "LEFT JOIN account a ON a.id = p.account_id "
        "LEFT JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE (a.currency = p.currency AND a.legal_entity_id = t.legal_entity_id "
        "AND a.tenant_id IS NOT DISTINCT FROM p.tenant_id "
        "AND (a.tenant_id IS NULL OR a.tenant_id = t.tenant_id)) IS NOT TRUE ORDER BY 1, 2",
    )
    return [(row.account_id, row.transaction_id) for row in rows]


def foreign_balances(connection: sa.Connection) -> list[int]:
    """Ids of accounts whose balance is shown to another tenant than the account's."""
    rows = query(
        connection,
        "SELECT b.account_id FROM account_balance b LEFT JOIN account a ON a.id = b.account_id "
        "WHERE a.id IS NULL OR a.tenant_id IS DISTINCT FROM b.tenant_id ORDER BY 1",
    )
    return [row.account_id for row in rows]


def closed_books(connection: sa.Connection) -> list[ClosedBooks]:
    """Every closed accounting period, whosever it is, in order."""
    rows = query(
        connection,
        "SELECT p.legal_entity_id, e.zone, p.period_start, p.period_end FROM accounting_period p "
        "LEFT JOIN legal_entity e ON e.id = p.legal_entity_id ORDER BY 1, 4",
    )
    return [
        ClosedBooks(
            legal_entity_id=row.legal_entity_id,
            zone=row.zone,
            start=row.period_start,
            end=row.period_end,
        )
        for row in rows
    ]


def wrong_horizons(connection: sa.Connection) -> list[date]:
    """Months that left and are not those of their archives, or end at another instant."""
    rows = query(
        connection,
        "SELECT h.month FROM usage_horizon h LEFT JOIN usage_archive a ON a.id = h.archive_id "
        "WHERE (a.month = h.month AND h.oldest_kept = "
        "(h.month + interval '1 month') AT TIME ZONE 'UTC') IS NOT TRUE ORDER BY 1",
    )
    return [row.month for row in rows]
