"""Tables account, ledger_transaction, posting: the money ledger."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from billing.errors import IdempotencyConflict, LedgerError
from billing.ledger.account import Account, AccountCode
from billing.ledger.earning import LINE_ACCOUNTS, EarnedOn
from billing.ledger.posting import LineRef, Posting, Transaction, postings_digest
from billing.period import Period
from billing.store.database import first, members, only, query, run

_HALF_A_MONTH = timedelta(days=14)
"""From the begin of a billing period to its middle, of the shortest."""

_ENTRIES = (
    "SELECT t.id, t.legal_entity_id, t.tenant_id, t.kind, t.idempotency_key, t.reference, "
    "t.effective_at, t.originated_at, t.reverses, t.fx_rate, t.posting_count, a.code, "
    "p.tenant_id AS of_tenant, p.currency, p.amount, p.contract_id, p.period_start, p.line_key "
    "FROM ledger_transaction t JOIN posting p ON p.transaction_id = t.id "
    "JOIN account a ON a.id = p.account_id"
)

# IS NOT DISTINCT FROM is not looked up in the index: it would read the accounts of all tenants.
_OF_ACCOUNT = (
    "a.legal_entity_id = :entity AND a.code = :code AND a.currency = :currency AND ("
    "a.tenant_id = CAST(:tenant AS integer) "
    "OR a.tenant_id IS NULL AND CAST(:tenant AS integer) IS NULL)"
)


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

    What is effective in a closed accounting period is posted at the begin of the first open one,
    and keeps its own time as `originated_at`. The period cannot be closed before the caller's
    transaction ends.

    Raises:
        IdempotencyConflict: the key was used for other postings.
    """
    ids = _account_ids(connection, [posting.account for posting in transaction.postings])
    rows = [(ids[posting.account], posting) for posting in transaction.postings]
    digest = postings_digest([(account, posting.amount) for account, posting in rows])
    transaction = in_open_period(connection, transaction)
    header = first(
        connection,
        "INSERT INTO ledger_transaction (id, legal_entity_id, tenant_id, kind, idempotency_key, "
        "reference, effective_at, originated_at, posted_at, posting_count, postings_hash, "
        "reverses, fx_rate) VALUES (:id, :entity, :tenant, :kind, :key, :reference, :effective, "
        ":originated, :now, :count, :hash, :reverses, :rate) "
        # On any conflict: of two reversals at once the second may meet the other index first.
        "ON CONFLICT DO NOTHING RETURNING id",
        id=transaction.id,
        entity=transaction.legal_entity_id,
        tenant=transaction.tenant_id,
        kind=transaction.kind,
        key=transaction.idempotency_key,
        reference=transaction.reference,
        effective=transaction.effective_at,
        originated=transaction.originated_at,
        now=now,
        count=len(rows),
        hash=digest,
        reverses=transaction.reverses,
        rate=transaction.fx_rate,
    )
    if header is None:
        require_same(connection, transaction, digest)
        return False
    _insert_postings(connection, transaction.id, rows)
    return True


def in_open_period(connection: sa.Connection, transaction: Transaction) -> Transaction:
    """The transaction, moved out of what is closed; no period closes until the caller's commit."""
    return moved_to_open(transaction, closed_until(connection, transaction.legal_entity_id))


def closed_until(connection: sa.Connection, legal_entity_id: int) -> datetime | None:
    """Where the closed accounting periods end; none closes until the caller's commit."""
    return only(
        connection, "SELECT books_closed_until(:entity) AS until", entity=legal_entity_id
    ).until


def moved_to_open(transaction: Transaction, closed: datetime | None) -> Transaction:
    """The transaction, at the end of what is closed if it was effective before."""
    if closed is None or transaction.effective_at >= closed:
        return transaction
    return replace(transaction, effective_at=closed, originated_at=transaction.effective_at)


def _insert_postings(
    connection: sa.Connection, transaction_id: UUID, rows: list[tuple[int, Posting]]
) -> None:
    # In this order the accounts are locked: opposite orders would deadlock. Those that all tenants
    # share come last, so that they are held for the shortest time.
    ordered = sorted(
        enumerate(rows), key=lambda row: (row[1][1].account.tenant_id is None, row[1][0], row[0])
    )
    lines = [posting.line for _, (_, posting) in ordered]
    run(
        connection,
        "INSERT INTO posting (transaction_id, ordinal, account_id, tenant_id, currency, amount, "
        "contract_id, period_start, line_key) SELECT :transaction, * FROM unnest("
        "CAST(:ordinals AS integer[]), CAST(:accounts AS integer[]), CAST(:tenants AS integer[]), "
        "CAST(:currencies AS text[]), CAST(:amounts AS numeric[]), CAST(:contracts AS integer[]), "
        "CAST(:periods AS timestamptz[]), CAST(:keys AS text[]))",
        transaction=transaction_id,
        ordinals=[ordinal for ordinal, _ in ordered],
        accounts=[account for _, (account, _) in ordered],
        tenants=[posting.account.tenant_id for _, (_, posting) in ordered],
        currencies=[posting.account.currency for _, (_, posting) in ordered],
        amounts=[posting.amount for _, (_, posting) in ordered],
        contracts=[line and line.contract_id for line in lines],
        periods=[line and line.period_start for line in lines],
        keys=[line and line.line_key for line in lines],
    )


def accrued(
    connection: sa.Connection, *, contract_id: int, period_start: datetime
) -> dict[EarnedOn, Decimal]:
    """What was posted so far on the lines of a contract's billing period; above zero is earned."""
    rows = query(
        connection,
        "SELECT p.line_key, a.code, -sum(p.amount) AS amount FROM posting p "
        "JOIN account a ON a.id = p.account_id WHERE p.contract_id = :contract "
        "AND p.period_start = :start AND a.code = ANY(:earned_on) GROUP BY 1, 2",
        contract=contract_id,
        start=period_start,
        earned_on=[code.value for code in LINE_ACCOUNTS],
    )
    return {(row.line_key, AccountCode(row.code)): row.amount for row in rows}


def account_id(connection: sa.Connection, account: Account) -> int | None:
    """Row id of an account, or None if nothing was ever posted on it."""
    row = first(
        connection,
        f"SELECT a.id FROM account a WHERE {_OF_ACCOUNT}",  # noqa: S608  # our own text
        **_identity(account),
    )
    return None if row is None else row.id


def balance(connection: sa.Connection, account: Account) -> Decimal:
    """What an account holds now, by its newest posting; debits are positive."""
    row = first(
        connection,
        "SELECT b.balance FROM account_balance b JOIN account a ON a.id = b.account_id "  # noqa: S608  # our own text
        f"WHERE {_OF_ACCOUNT}",
        **_identity(account),
    )
    return Decimal(0) if row is None else row.balance


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
        "SELECT a.code, a.currency, sum(b.balance) AS total FROM account_balance b "
        "JOIN account a ON a.id = b.account_id GROUP BY 1, 2 ORDER BY 1, 2",
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
        f"{_ENTRIES} WHERE t.effective_at >= :start AND t.effective_at < :end "
        "AND (CAST(:entity AS integer) IS NULL OR t.legal_entity_id = :entity) "
        "ORDER BY t.effective_at, t.posted_at, t.id, p.ordinal",
        start=period.start,
        end=period.end,
        entity=legal_entity_id,
    )
    grouped = groupby(rows, key=lambda row: row.id)
    return [_transaction(list(postings)) for _, postings in grouped]


def stored_transaction(connection: sa.Connection, transaction_id: UUID) -> Transaction | None:
    """One transaction as it is stored, or None.

    Raises:
        LedgerError: it does not sum to zero, or lost a posting.
    """
    rows = query(connection, f"{_ENTRIES} WHERE t.id = :id ORDER BY p.ordinal", id=transaction_id)
    return _transaction(list(rows)) if rows else None


def revenue(connection: sa.Connection, *, period: Period) -> list[RevenueRow]:
    """What was earned on the rated lines whose billing period has its middle in `period`.

    Unused commitments among them, and less coupons.

    Tenants' months begin at midnight in zones of their own: by their begin, those east of UTC
    would all be counted to the month before.
    """
    rows = query(
        connection,
        "SELECT n.slug AS tenant, p.contract_id, p.period_start, p.line_key, p.currency, "
        "-sum(p.amount) AS amount FROM posting p JOIN account a ON a.id = p.account_id "
        "JOIN tenant n ON n.id = p.tenant_id WHERE a.code = ANY(:earned_on) "
        "AND p.period_start >= :start AND p.period_start < :end GROUP BY 1, 2, 3, 4, 5 "
        "ORDER BY 1, 2, 3, 4, 5",
        earned_on=[code.value for code in LINE_ACCOUNTS],
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
        originated_at=head.originated_at,
        fx_rate=head.fx_rate,
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


def _account_ids(connection: sa.Connection, accounts: list[Account]) -> dict[Account, int]:
    wanted = sorted(
        set(accounts),
        key=lambda account: (account.code, account.tenant_id or 0, account.currency),
    )
    found = {account: account_id(connection, account) for account in wanted}
    for account in wanted:
        if found[account] is None:
            run(
                connection,
                "INSERT INTO account (legal_entity_id, code, tenant_id, currency) "
                "VALUES (:entity, :code, :tenant, :currency) ON CONFLICT DO NOTHING",
                **_identity(account),
            )
            found[account] = account_id(connection, account)
    return {account: number for account, number in found.items() if number is not None}


def _identity(account: Account) -> dict[str, int | str | None]:
    return {
        "entity": account.legal_entity_id,
        "code": account.code.value,
        "tenant": account.tenant_id,
        "currency": account.currency,
    }


def is_posted(connection: sa.Connection, legal_entity_id: int, idempotency_key: str) -> bool:
    """Whether a transaction was posted under a key."""
    found = query(
        connection,
        "SELECT 1 FROM ledger_transaction WHERE legal_entity_id = :entity "
        "AND idempotency_key = :key",
        entity=legal_entity_id,
        key=idempotency_key,
    )
    return bool(found)


def require_same(connection: sa.Connection, transaction: Transaction, digest: bytes) -> None:
    """Check that what was posted under a transaction's key is this (L3).

    Raises:
        IdempotencyConflict: other postings were.
    """
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
