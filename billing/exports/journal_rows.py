"""The money journal as rows: one per posting, debit or credit, at 12 decimals.

Decides: the columns, and that rows whose debits and credits differ are not exported. Rounding to
the two decimals of a general ledger is another export's business; this one loses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal

from billing.errors import TieOutFailed
from billing.exports.csv_text import Cell, csv_text, instant_text
from billing.ledger.posting import Posting, Transaction
from billing.money import EXACT, LEDGER_DECIMALS

JOURNAL_COLUMNS = (
    "transaction_id",
    "effective_at",
    "kind",
    "legal_entity",
    "account",
    "tenant",
    "currency",
    "debit",
    "credit",
    "reference",
    "contract_id",
    "period_start",
    "line_key",
    "reverses",
)
"""Columns are only ever added at the end: people's imports count on their places."""

_TRANSACTION = JOURNAL_COLUMNS.index("transaction_id")
_CURRENCY = JOURNAL_COLUMNS.index("currency")
_DEBIT = JOURNAL_COLUMNS.index("debit")
_CREDIT = JOURNAL_COLUMNS.index("credit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What ids are called outside: slugs by id."""

    legal_entities: Mapping[int, str]
    tenants: Mapping[int, str]


def journal_rows(transactions: Iterable[Transaction], names: Names) -> Iterator[tuple[Cell, ...]]:
    """Rows of `JOURNAL_COLUMNS`, in the given order."""
    for transaction in transactions:
        for posting in transaction.postings:
            yield _row(transaction, posting, names)


def journal_csv(transactions: Iterable[Transaction], names: Names) -> str:
    """The journal as CSV text, checked.

    Raises:
        TieOutFailed: debits and credits differ.
    """
    rows = list(journal_rows(transactions, names))
    require_debits_equal_credits(rows)
    return csv_text(JOURNAL_COLUMNS, rows)


def require_debits_equal_credits(rows: Iterable[tuple[Cell, ...]]) -> None:
    """Check the rows as they will be written, per transaction and currency (L1 when read).

    Raises:
        TieOutFailed: debits and credits of a transaction differ.
    """
    sums: defaultdict[tuple[Cell, Cell], Decimal] = defaultdict(Decimal)
    for row in rows:
        side = EXACT.subtract(_amount(row[_DEBIT]), _amount(row[_CREDIT]))
        key = (row[_TRANSACTION], row[_CURRENCY])
        sums[key] = EXACT.add(sums[key], side)
    for (transaction, _), difference in sums.items():
        if difference:
            raise TieOutFailed("debits and credits differ", field=f"transactions.{transaction}")


def _amount(cell: Cell) -> Decimal:
    return cell if isinstance(cell, Decimal) else Decimal(0)


def _row(transaction: Transaction, posting: Posting, names: Names) -> tuple[Cell, ...]:
    account, line = posting.account, posting.line
    amount = posting.amount.quantize(Decimal(1).scaleb(-LEDGER_DECIMALS), context=EXACT)
    return (
        str(transaction.id),
        transaction.effective_at,
        transaction.kind,
        names.legal_entities[account.legal_entity_id],
        account.code.value,
        None if account.tenant_id is None else names.tenants[account.tenant_id],
        account.currency,
        amount if amount > 0 else None,
        amount.copy_abs() if amount < 0 else None,
        transaction.reference,
        None if line is None else line.contract_id,
        None if line is None else instant_text(line.period_start),
        None if line is None else line.line_key,
        None if transaction.reverses is None else str(transaction.reverses),
    )
