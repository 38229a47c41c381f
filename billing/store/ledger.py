"""Tables account, ledger_transaction, posting: the money ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from billing.errors import IdempotencyConflict, LedgerError
from billing.ledger.account import Account, AccountCode
from billing.ledger.posting import LineRef, Posting, Transaction, postings_digest
from billing.period import Period
from billing.store.database import first, members, only, query, run

_HALF_A_MONTH = timedelta(days=14)
"""From the begin of a billing period to its middle, of the shortest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevenueRow:
    """Posted revenue of one rated line, as a positive amount."""

    tenant: str
    contract_id: int
    period_start: datetime
    line_key: str
    currency: str
    amount: Decimal


def post(connection: sa.Connection, transaction: Transaction, *, now: datetime) -> bool:
    """Post a transaction; False if the same one was posted before (L3).

    Raises:
        IdempotencyConflict: the key was used for other postings.
    """
    ids = [_account_id(connection, posting.account) for posting in transaction.postings]
    rows = list(zip(ids, transaction.postings, strict=True))
    digest = postings_digest([(account, posting.amount) for account, posting in rows])
    header = first(
        connection,
        "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, "
        "reference, effective_at, posted_at, posting_count, postings_hash, reverses) VALUES (:id, "
        ":entity, :tenant, :kind, :key, :reference, :effective, :now, :count, :hash, :reverses) "
        "ON CONFLICT (legal_entity_id, idempotency_key) DO NOTHING RETURNING id",
        id=transaction.id,
        entity=transaction.legal_entity_id,
        tenant=transaction.tenant_id,
        kind=transaction.kind,
        key=transaction.idempotency_key,
        reference=transaction.reference,
        effective=transaction.effective_at,
        now=now,
        count=len(rows),
        hash=digest,
        reverses=transaction.reverses,
    )
    if header is None:
        _require_same(connection, transaction, digest)
        return False
    connection.execute(
        sa.text(
            "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, "
            "amount, contract_id, period_start, line_key) VALUES (:transaction, :ordinal, "
            ":account, :tenant, :currency, :amount, :contract, :period, :line)"
        ),
        [
            {
                "transaction": transaction.id,
                "ordinal": ordinal,
                "account": account,
                "tenant": posting.account.tenant_id,
                "currency": posting.account.currency,
                "amount": posting.amount,
                "contract": posting.line.contract_id if posting.line else None,
                "period": posting.line.period_start if posting.line else None,
                "line": posting.line.line_key if posting.line else None,
            }
            for ordinal, (account, posting) in enumerate(rows)
        ],
    )
    return True


def accrued(
    connection: sa.Connection, *, contract_id: int, period_start: datetime
) -> dict[str, Decimal]:
    """Revenue posted so far per line key of a contract's billing period."""
    rows = query(
        connection,
        "SELECT p.line_key, -sum(p.amount) AS amount FROM posting p "
        "JOIN account a ON a.id = p.account_id WHERE p.contract_id = :contract "
        "AND p.period_start = :start AND a.code = :revenue GROUP BY p.line_key",
        contract=contract_id,
        start=period_start,
        revenue=AccountCode.REVENUE.value,
    )
    return {row.line_key: row.amount for row in rows}


def balance(connection: sa.Connection, account: Account) -> Decimal:
    """Sum of an account's postings; debits are positive."""
    return only(
        connection,
        "SELECT coalesce(sum(p.amount), 0) AS total FROM posting p "
        "JOIN account a ON a.id = p.account_id WHERE a.legal_entity_id = :entity "
        "AND a.code = :code AND a.tenant_id IS NOT DISTINCT FROM CAST(:tenant AS integer) "
        "AND a.currency = :currency",
        entity=account.legal_entity_id,
        code=account.code.value,
        tenant=account.tenant_id,
        currency=account.currency,
    ).total


def moved_for(
    connection: sa.Connection,
    *,
    legal_entity_id: int,
    reference: str,
    kind: str,
    code: AccountCode,
) -> Decimal:
    """What transactions of a kind about a reference moved on a code; debits are positive."""
    return only(
        connection,
        "SELECT coalesce(sum(p.amount), 0) AS total FROM ledger_transaction t "
        "JOIN posting p ON p.transaction_id = t.id JOIN account a ON a.id = p.account_id "
        "WHERE t.legal_entity_id = :entity AND t.reference = :reference AND t.kind = :kind "
        "AND a.code = :code",
        entity=legal_entity_id,
        reference=reference,
        kind=kind,
        code=code.value,
    ).total


LedgerTotals = dict[tuple[str, str], Decimal]
"""Balances by (account code, currency)."""


def totals(connection: sa.Connection) -> LedgerTotals:
    """Balance of every account code and currency over all tenants: the trial balance."""
    rows = query(
        connection,
        "SELECT a.code, a.currency, sum(p.amount) AS total FROM posting p "
        "JOIN account a ON a.id = p.account_id GROUP BY 1, 2 ORDER BY 1, 2",
    )
    return {(row.code, row.currency): row.total for row in rows}


def journal(
    connection: sa.Connection, *, period: Period, legal_entity_id: int | None = None
) -> list[Transaction]:
    """Transactions that are effective in a period, in order; L1 holds again in what is read.

    Raises:
        LedgerError: a stored transaction does not sum to zero, or lost a posting.
    """
    rows = query(
        connection,
        "SELECT t.id, t.legal_entity_id, t.tenant_id, t.kind, t.idempotency_key, t.reference, "
        "t.effective_at, t.reverses, t.posting_count, a.code, p.tenant_id AS of_tenant, "
        "p.currency, p.amount, p.contract_id, p.period_start, p.line_key "
        "FROM ledger_transaction t JOIN posting p ON p.transaction_id = t.id "
        "JOIN account a ON a.id = p.account_id "
        "WHERE t.effective_at >= :start AND t.effective_at < :end "
        "AND (CAST(:entity AS integer) IS NULL OR t.legal_entity_id = :entity) "
        "ORDER BY t.effective_at, t.posted_at, t.id, p.ordinal",
        start=period.start,
        end=period.end,
        entity=legal_entity_id,
    )
    grouped = groupby(rows, key=lambda row: row.id)
    return [_transaction(list(postings)) for _, postings in grouped]


def revenue(connection: sa.Connection, *, period: Period) -> list[RevenueRow]:
    """Posted revenue of the rated lines whose billing period has its middle in `period`.

    Tenants' months begin at midnight in zones of their own: by their begin, those east of UTC
    would all be counted to the month before.
    """
    rows = query(
        connection,
        "SELECT n.slug AS tenant, p.contract_id, p.period_start, p.line_key, p.currency, "
        "-sum(p.amount) AS amount FROM posting p JOIN account a ON a.id = p.account_id "
        "JOIN tenant n ON n.id = p.tenant_id WHERE a.code = :revenue "
        "AND p.period_start >= :start AND p.period_start < :end GROUP BY 1, 2, 3, 4, 5 "
        "ORDER BY 1, 2, 3, 4, 5",
        revenue=AccountCode.REVENUE.value,
        start=period.start - _HALF_A_MONTH,
        end=period.end - _HALF_A_MONTH,
    )
    return [RevenueRow(**members(row)) for row in rows]


def _transaction(rows: list[sa.Row[Any]]) -> Transaction:
    head = rows[0]
    if len(rows) != head.posting_count:
        raise LedgerError("a stored transaction lost a posting", field="posting")
    return Transaction(
        id=head.id,
        legal_entity_id=head.legal_entity_id,
        tenant_id=head.tenant_id,
        kind=head.kind,
        idempotency_key=head.idempotency_key,
        effective_at=head.effective_at,
        postings=tuple(_posting(row) for row in rows),
        reference=head.reference,
        reverses=head.reverses,
    )


def _posting(row: sa.Row[Any]) -> Posting:
    line = None
    if row.contract_id is not None:
        line = LineRef(
            contract_id=row.contract_id, period_start=row.period_start, line_key=row.line_key
        )
    return Posting(
        account=Account(
            legal_entity_id=row.legal_entity_id,
            code=AccountCode(row.code),
            tenant_id=row.of_tenant,
            currency=row.currency,
        ),
        amount=row.amount,
        line=line,
    )


def _account_id(connection: sa.Connection, account: Account) -> int:
    found = (
        "SELECT id FROM account WHERE legal_entity_id = :entity AND code = :code "
        "AND tenant_id IS NOT DISTINCT FROM CAST(:tenant AS integer) AND currency = :currency"
    )
    identity = {
        "entity": account.legal_entity_id,
        "code": account.code.value,
        "tenant": account.tenant_id,
        "currency": account.currency,
    }
    row = first(connection, found, **identity)
    if row is None:
        run(
            connection,
            "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
            "VALUES (:entity, :code, :tenant, :currency) ON CONFLICT DO NOTHING",
            **identity,
        )
        row = only(connection, found, **identity)
    return row.id


def _require_same(connection: sa.Connection, transaction: Transaction, digest: bytes) -> None:
    posted = only(
        connection,
        "SELECT kind, reference, postings_hash FROM ledger_transaction "
        "WHERE legal_entity_id = :entity AND idempotency_key = :key",
        entity=transaction.legal_entity_id,
        key=transaction.idempotency_key,
    )
    # Two payments of one amount have equal postings: only the reference tells their invoices apart.
    stated = (transaction.kind, transaction.reference, digest)
    if (posted.kind, posted.reference, bytes(posted.postings_hash)) != stated:
        raise IdempotencyConflict(
            "this idempotency key was used for other postings",
            field="idempotency_key",
            remedy="use a new key, or send the same transaction again",
        )
