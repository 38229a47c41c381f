"""The money journal as plain text that hledger reads: an outside check of every balance.

Decides: account names, and what hledger's strict mode asks for: every account and commodity is
declared, transactions are in order of their dates. A date is the UTC day on which a
transaction counts. Amounts keep all 12 decimals, so hledger's balances are the database's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from billing.exports.csv_text import instant_text
from billing.exports.journal_rows import Names
from billing.ledger.account import Account, AccountKind
from billing.ledger.posting import Transaction
from billing.money import LEDGER_DECIMALS

_ROOTS = {
    AccountKind.ASSET: "assets",
    AccountKind.LIABILITY: "liabilities",
    AccountKind.EQUITY: "equity",
    AccountKind.INCOME: "revenues",
    AccountKind.EXPENSE: "expenses",
}


def hledger_journal(transactions: Iterable[Transaction], names: Names) -> str:
    """The journal as text, sorted by time."""
    ordered = sorted(transactions, key=lambda found: (found.effective_at, found.id))
    lines = [*_declarations(ordered, names)]
    for transaction in ordered:
        lines.extend(_entry(transaction, names))
    return "".join(f"{line}\n" for line in lines)


def account_name(account: Account, names: Names) -> str:
    """`assets:unbilled_receivable:default:acme`: root, code, legal entity, tenant if there is one.

    The root says where the account stands in a balance sheet or an income statement.
    """
    parts = [
        _ROOTS[account.code.kind],
        account.code.value,
        names.legal_entities[account.legal_entity_id],
    ]
    if account.tenant_id is not None:
        parts.append(names.tenants[account.tenant_id])
    return ":".join(parts)


def _declarations(transactions: Sequence[Transaction], names: Names) -> Iterator[str]:
    accounts = {posting.account for found in transactions for posting in found.postings}
    for currency in sorted({account.currency for account in accounts}):
        yield f"commodity 1000.{'0' * LEDGER_DECIMALS} {currency}"
    for name in sorted({account_name(account, names) for account in accounts}):
        yield f"account {name}"


def _entry(transaction: Transaction, names: Names) -> Iterator[str]:
    about = f" {_one_line(transaction.reference)}" if transaction.reference else ""
    yield ""
    yield f"{transaction.effective_at:%Y-%m-%d} {_one_line(transaction.kind)}{about}"
    yield f"    ; transaction:{transaction.id}, at:{instant_text(transaction.effective_at)}"
    for posting in transaction.postings:
        amount = f"{posting.amount:.{LEDGER_DECIMALS}f} {posting.account.currency}"
        line = f"  ; line:{_one_line(posting.line.line_key)}" if posting.line else ""
        yield f"    {account_name(posting.account, names)}  {amount}{line}"


def _one_line(text: str) -> str:
    """Text that cannot end its line, begin a comment, or look like another tag."""
    return " ".join(text.replace(";", ",").split())
