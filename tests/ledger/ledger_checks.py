"""Other ways to look at the books than the one under test, and many who act on them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from billing.errors import SteelyardError
from billing.exports.hledger import account_name, hledger_journal
from billing.exports.journal_rows import Names
from billing.ledger.account import Account
from billing.operations.seal.verify import Finding, verify_books, verify_seal
from billing.period import Period
from billing.store import ledger
from billing.store.database import Role, become, query, run
from billing.tenancy.tenant import LegalEntity

Answer = TypeVar("Answer")

CHANGES = {
    "an amount": "UPDATE posting SET amount = amount + 0.000000000001 "
    "WHERE transaction_id = :id AND ordinal = 0",
    "a time": "UPDATE ledger_transaction SET effective_at = effective_at + interval '1 microsecond'"
    " WHERE id = :id",
}


def at_once(works: Sequence[Callable[[], Answer]]) -> list[Answer | SteelyardError]:
    """Do all of it at once, in threads of their own; answers or refusals, in the same order."""
    start = Barrier(len(works))

    def run_one(work: Callable[[], Answer]) -> Answer | SteelyardError:
        start.wait()
        try:
            return work()
        except SteelyardError as refused:
            return refused

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run_one, works))


def rows_of(connection: sa.Connection, entity: LegalEntity) -> dict[str, str]:
    """Every row of the books of a legal entity, as text."""
    rows = query(
        connection,
        "SELECT CAST(t.id AS text) AS name, t::text AS row FROM ledger_transaction t "
        "WHERE t.legal_entity_id = :entity UNION ALL "
        "SELECT p.transaction_id || '/' || p.ordinal, p::text FROM posting p "
        "JOIN ledger_transaction t ON t.id = p.transaction_id WHERE t.legal_entity_id = :entity",
        entity=entity.id,
    )
    return {row.name: row.row for row in rows}


def exported(
    connection: sa.Connection, entity: LegalEntity, names: Names, period: Period
) -> dict[tuple[str, str], Decimal]:
    """Balances by (account name, currency) of whoever adds up the exported journal."""
    made = ledger.journal(connection, period=period, legal_entity_id=entity.id)
    sums: dict[tuple[str, str], Decimal] = {}
    for line in hledger_journal(made, names).splitlines():
        words = line.partition(";")[0].split()
        if line.startswith(" ") and words:
            name, amount, code = words
            sums[name, code] = sums.get((name, code), Decimal(0)) + Decimal(amount)
    return sums


def named(balances: dict[Account, Decimal], names: Names) -> dict[tuple[str, str], Decimal]:
    """Balances by the names that an export gives their accounts."""
    return {
        (account_name(account, names), account.currency): amount
        for account, amount in balances.items()
    }


def findings_after(owner: sa.Engine, change: str, changed: UUID, *, above: int) -> list[Finding]:
    """What verification finds once the owner, every trigger off, changed one transaction.

    Nothing of it is committed.
    """
    with owner.connect() as connection, connection.begin() as transaction:
        run(connection, "SET LOCAL session_replication_role = replica")
        assert run(connection, change, id=changed) == 1
        become(connection, Role.OPERATOR)
        found = verify_books(connection) + verify_seal(connection, above=above)
        transaction.rollback()
    return found
