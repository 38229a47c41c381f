"""Postings and transactions: L1 holds in the constructor already.

A transaction sums to zero per currency, touches at most one tenant and one legal entity, and is
never changed. A correction is another transaction that names the one it reverses.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from billing.errors import AmountOutOfRange, LedgerError
from billing.ledger.account import Account, AccountCode
from billing.money import EXACT, LEDGER_DECIMALS, LEDGER_LIMIT, to_ledger
from billing.period import require_utc

_LEDGER_QUANTUM = Decimal(1).scaleb(-LEDGER_DECIMALS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRef:
    """The rated line that an accrual belongs to: (contract, billing period, line key)."""

    contract_id: int
    period_start: datetime
    line_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One side of a transaction.

    Attributes:
        amount: major units at 12 decimals; positive is a debit, negative a credit; never 0.
        line: the rated line whose revenue this is, for accruals.
    """

    account: Account
    amount: Decimal
    line: LineRef | None = None

    def __post_init__(self) -> None:
        if not self.amount:
            raise LedgerError("a posting must be non-zero", field="amount")
        if self.amount.copy_abs() >= LEDGER_LIMIT:
            raise AmountOutOfRange(
                "the amount does not fit the ledger",
                field="amount",
                remedy="check quantities and prices",
            )
        # What was rounded to the ledger's decimals has them: it is not rounded once more to see.
        if not self.amount.same_quantum(_LEDGER_QUANTUM) and to_ledger(self.amount) != self.amount:
            raise LedgerError("a posting has at most 12 decimals", field="amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Postings that belong together and sum to zero.

    Attributes:
        id: identity of the transaction.
        idempotency_key: unique per legal entity: the same key posts once (L3).
        kind: name of the template that made it.
        effective_at: when it counts.
        reference: what it is about, such as an invoice number.
        reverses: the transaction it undoes, if any; it has the same kind and reference.
        originated_at: when it happened, if that accounting period was closed by then.
        fx_rate: of an exchange: bought units for one sold unit.
    """

    id: UUID
    legal_entity_id: int
    tenant_id: int | None
    kind: str
    idempotency_key: str
    effective_at: datetime
    postings: tuple[Posting, ...]
    reference: str = ""
    reverses: UUID | None = None
    originated_at: datetime | None = None
    fx_rate: Decimal | None = None

    def __post_init__(self) -> None:
        require_utc(self.effective_at, field="effective_at")
        if len(self.postings) < 2:
            raise LedgerError("a transaction needs two postings or more", field="postings")
        require_balanced(self.postings)
        accounts = _accounts(self.postings)
        _require_exchange(accounts, self.fx_rate)
        for account in accounts:
            if account.legal_entity_id != self.legal_entity_id:
                raise LedgerError("a posting belongs to another legal entity", field="postings")
            if account.tenant_id not in (None, self.tenant_id):
                raise LedgerError("a posting belongs to another tenant", field="postings")


def require_balanced(postings: tuple[Posting, ...]) -> None:
    """Check L1: the postings sum to zero in every currency.

    Raises:
        LedgerError: they do not.
    """
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for posting in postings:
        currency = posting.account.currency
        sums[currency] = EXACT.add(sums[currency], posting.amount)
    if any(sums.values()):
        raise LedgerError("postings do not sum to zero", field="postings")


def mirrored(transaction: Transaction, *, new_id: UUID, at: datetime) -> Transaction:
    """The transaction that undoes another: the same postings with the other sign.

    Rated lines stay named, so what was accrued on them is taken back as well.

    Raises:
        LedgerError: it is a reversal itself; what it took back is posted anew instead.
    """
    if transaction.reverses is not None:
        raise LedgerError(
            "a reversal is not reversed", field="transaction", remedy="post the original anew"
        )
    return replace(
        transaction,
        id=new_id,
        idempotency_key=f"reversal/{transaction.id}",
        effective_at=at,
        originated_at=None,
        reverses=transaction.id,
        postings=tuple(
            replace(posting, amount=posting.amount.copy_negate())
            for posting in transaction.postings
        ),
    )


def _accounts(postings: tuple[Posting, ...]) -> list[Account]:
    """The accounts in order: one of each run, since lines follow each other on the same one."""
    found: list[Account] = []
    last = None
    for posting in postings:
        if posting.account is not last:
            last = posting.account
            found.append(last)
    return found


def _require_exchange(accounts: Sequence[Account], fx_rate: Decimal | None) -> None:
    currencies = {account.currency for account in accounts}
    exchanged = {
        account.currency for account in accounts if account.code is AccountCode.FX_POSITION
    }
    crosses = len(currencies) == 2 and exchanged == currencies and fx_rate is not None
    stays = len(currencies) == 1 and not exchanged and fx_rate is None
    if not (crosses or stays):
        raise LedgerError(
            "currencies are crossed through the two FX accounts only", field="postings"
        )


def postings_digest(rows: list[tuple[int, Decimal]]) -> bytes:
    """SHA-256 over (account id, amount) in order: what the header promises about its postings.

    The database recomputes it at commit from the rows that arrived, so a posting that is lost,
    added or changed on the way is refused.
    """
    return stated_digest([account for account, _ in rows], [stated(amount) for _, amount in rows])


def stated(amount: Decimal) -> str:
    """An amount of the ledger as the digest states it."""
    return f"{amount:.12f}"


def stated_digest(accounts: Sequence[int], amounts: Sequence[str]) -> bytes:
    """`postings_digest` of amounts that are stated already; one for each account."""
    rows = enumerate(zip(accounts, amounts, strict=True))
    lines = [f"{n}|{account}|{amount}" for n, (account, amount) in rows]
    return hashlib.sha256("\n".join(lines).encode()).digest()
