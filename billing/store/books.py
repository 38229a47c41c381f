"""What the books say: balances as of a time, statements of accounts, and closed periods.

An amount counts at a transaction's `effective_at`, and was known from its `posted_at`. Decides
nothing: which period may close is checked by the database, so that no writer can be late.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.ledger.account import Account, AccountCode
from billing.period import Period
from billing.store.database import first, members, only, query, run

_AS_OF = """
WITH RECURSIVE wanted AS (
    SELECT a.id, b.version FROM account a JOIN account_balance b ON b.account_id = a.id
     WHERE a.legal_entity_id = :entity
       AND (CAST(:tenant AS integer) IS NULL OR a.tenant_id = :tenant)
       AND (CAST(:account AS integer) IS NULL OR a.id = :account)
), halved AS (
    SELECT id, CAST(0 AS bigint) AS low, version AS high FROM wanted
    UNION ALL
    SELECT h.id, CASE WHEN m.within THEN m.account_version ELSE h.low END,
           CASE WHEN m.within THEN h.high ELSE m.account_version - 1 END
      FROM halved h CROSS JOIN LATERAL (
               SELECT p.account_version, p.reached_at < :before
                      AND (CAST(:known AS timestamptz) IS NULL OR p.known_at <= :known) AS within
                 FROM posting p
                WHERE p.account_id = h.id AND p.account_version = (h.low + h.high + 1) / 2
                LIMIT 1) m
     WHERE h.low < h.high
), found AS (
    SELECT h.id, h.low + apart.postings AS version,
           coalesce(CASE WHEN h.low > 0 THEN (
               SELECT balance_after FROM posting p
                WHERE p.account_id = h.id AND p.account_version = h.low) END, 0)
           + apart.amount AS amount
      FROM halved h CROSS JOIN LATERAL (
               SELECT count(*) AS postings, coalesce(sum(p.amount), 0) AS amount
                 FROM (SELECT transaction_id, amount FROM posting
                        WHERE account_id = h.id AND account_version > h.low AND out_of_order
                       OFFSET 0) p
                 JOIN ledger_transaction t ON t.id = p.transaction_id
                WHERE t.effective_at < :before
                  AND (CAST(:known AS timestamptz) IS NULL OR t.posted_at <= :known)) apart
     WHERE h.low = h.high
)
"""
"""Balances as of a time, in as many steps per account as halving its versions takes.

How far an account had come only grows with its versions, so the last one within is found by
halving, and says what the account held. Of those after it only what was posted out of order can
count: it was effective or posted before something that is older on the account.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account holds; debits are positive.

    Attributes:
        version: how many postings it contains.
    """

    account: Account
    version: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One posting on an account.

    Attributes:
        amount: major units; positive is a debit.
        originated_at: when it happened, if its own accounting period was closed by then.
    """

    transaction_id: UUID
    kind: str
    reference: str
    effective_at: datetime
    originated_at: datetime | None
    posted_at: datetime
    account_version: int
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPeriod:
    """An accounting period into which nothing posts any more.

    Attributes:
        digest: SHA-256 of every account's balance at its end.
    """

    period: Period
    closed_at: datetime
    closed_by: str
    digest: bytes


def balances(
    connection: sa.Connection, *, legal_entity_id: int, tenant_id: int | None = None
) -> list[Balance]:
    """What every account of a legal entity holds now, of one tenant only if one is named."""
    rows = query(
        connection,
        "SELECT a.legal_entity_id, a.code, a.tenant_id, a.currency, b.version, b.balance AS amount "
        "FROM account_balance b JOIN account a ON a.id = b.account_id "
        "WHERE a.legal_entity_id = :entity "
        "AND (CAST(:tenant AS integer) IS NULL OR a.tenant_id = :tenant) "
        "ORDER BY a.code, a.currency, a.tenant_id NULLS FIRST",
        entity=legal_entity_id,
        tenant=tenant_id,
    )
    return [_balance(row) for row in rows]


def balances_as_of(
    connection: sa.Connection,
    *,
    legal_entity_id: int,
    before: datetime,
    known_at: datetime,
    tenant_id: int | None = None,
) -> list[Balance]:
    """What every account held just before an instant, as it was known at another.

    Args:
        before: postings that are effective before it count.
        known_at: postings that were made until then count.
    """
    rows = query(
        connection,
        f"{_AS_OF} SELECT a.legal_entity_id, a.code, a.tenant_id, a.currency, f.version, f.amount "  # noqa: S608  # our own text
        "FROM found f JOIN account a ON a.id = f.id WHERE f.version > 0 "
        "ORDER BY a.code, a.currency, a.tenant_id NULLS FIRST",
        entity=legal_entity_id,
        before=before,
        known=known_at,
        tenant=tenant_id,
        account=None,
    )
    return [_balance(row) for row in rows]


def opening_balance(
    connection: sa.Connection, account_id: int, *, legal_entity_id: int, before: datetime
) -> Decimal:
    """What an account held just before an instant, as it is known now."""
    row = first(
        connection,
        f"{_AS_OF} SELECT amount FROM found",  # noqa: S608  # our own text
        entity=legal_entity_id,
        before=before,
        known=None,
        tenant=None,
        account=account_id,
    )
    return Decimal(0) if row is None else row.amount


def statement_lines(
    connection: sa.Connection, account_id: int, *, period: Period
) -> list[StatementLine]:
    """The postings on an account that are effective in a period, in their order."""
    rows = query(
        connection,
        "SELECT t.id AS transaction_id, t.kind, t.reference, t.effective_at, t.originated_at, "
        "t.posted_at, p.account_version, p.amount FROM posting p "
        "JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WHERE p.account_id = :account "
        "AND t.effective_at >= :start AND t.effective_at < :end "
        "ORDER BY t.effective_at, p.account_version",
        start=period.start,
        end=period.end,
        account=account_id,
    )
    return [StatementLine(**members(row)) for row in rows]


def first_effective_at(connection: sa.Connection, legal_entity_id: int) -> datetime | None:
    """When the oldest transaction of a legal entity counts, or None without any."""
    return only(
        connection,
        "SELECT min(effective_at) AS oldest FROM ledger_transaction "
        "WHERE legal_entity_id = :entity",
        entity=legal_entity_id,
    ).oldest


def closed_periods(connection: sa.Connection, legal_entity_id: int) -> list[ClosedPeriod]:
    """The closed accounting periods of a legal entity, oldest first."""
    rows = query(
        connection,
        "SELECT period_start, period_end, closed_at, closed_by, digest FROM accounting_period "
        "WHERE legal_entity_id = :entity ORDER BY period_end",
        entity=legal_entity_id,
    )
    return [
        ClosedPeriod(
            period=Period(start=row.period_start, end=row.period_end),
            closed_at=row.closed_at,
            closed_by=row.closed_by,
            digest=bytes(row.digest),
        )
        for row in rows
    ]


def lock_closing(connection: sa.Connection, legal_entity_id: int) -> None:
    """Wait for every open poster of a legal entity, and let no other begin until commit."""
    run(
        connection,
        "SELECT pg_advisory_xact_lock(hashtextextended('steelyard.books/' || :entity, 0))",
        entity=str(legal_entity_id),
    )


def insert_closed_period(
    connection: sa.Connection,
    *,
    legal_entity_id: int,
    period: Period,
    closed_by: str,
    now: datetime,
) -> None:
    """Close a period; the database computes the digest, and refuses all but the next period."""
    run(
        connection,
        "INSERT INTO accounting_period (legal_entity_id, period_start, period_end, closed_at, "
        "closed_by) VALUES (:entity, :start, :end, :now, :by)",
        entity=legal_entity_id,
        start=period.start,
        end=period.end,
        now=now,
        by=closed_by,
    )


def trial_balance_digest(
    connection: sa.Connection, *, legal_entity_id: int, before: datetime
) -> bytes:
    """SHA-256 over every account's balance just before an instant, recomputed from postings."""
    row = only(
        connection,
        "SELECT trial_balance_digest(:entity, :before) AS digest",
        entity=legal_entity_id,
        before=before,
    )
    return bytes(row.digest)


def account_differences(connection: sa.Connection) -> list[int]:
    """Ids of accounts whose versions have gaps, whose balances are not the sum of postings, or
    which have not come as far as they say."""
    rows = query(
        connection,
        "WITH numbered AS (SELECT p.*, t.effective_at, t.posted_at, "
        "row_number() OVER w AS expected, sum(p.amount) OVER w AS running, "
        "max(t.effective_at) OVER w AS reached, max(t.posted_at) OVER w AS known "
        "FROM posting p JOIN ledger_transaction t ON t.id = p.transaction_id "
        "WINDOW w AS (PARTITION BY p.account_id ORDER BY p.account_version)), "
        "last AS (SELECT account_id, max(expected) AS version, sum(amount) AS balance, "
        "max(reached) AS reached, max(known) AS known, "
        "bool_and(account_version = expected AND balance_after = running AND reached_at = reached "
        "AND known_at = known "
        "AND out_of_order = (effective_at < reached OR posted_at < known)) AS sound "
        "FROM numbered GROUP BY account_id) "
        "SELECT coalesce(l.account_id, b.account_id) AS id FROM last l "
        "FULL JOIN account_balance b ON b.account_id = l.account_id "
        "WHERE (l.sound AND (l.version, l.balance, l.reached, l.known) "
        "= (b.version, b.balance, b.reached_at, b.known_at)) IS NOT TRUE ORDER BY 1",
    )
    return [row.id for row in rows]


def _balance(row: sa.Row[Any]) -> Balance:
    account = Account(
        legal_entity_id=row.legal_entity_id,
        code=AccountCode(row.code),
        tenant_id=row.tenant_id,
        currency=row.currency,
    )
    return Balance(account=account, version=row.version, amount=row.amount)
