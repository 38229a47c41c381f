"""Undo a posted transaction by another one that mirrors it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.ledger.posting import Transaction, mirrored
from billing.operations.minting import mint_id
from billing.store import ledger as store


def reverse_transaction(
    connection: sa.Connection, transaction_id: UUID, *, now: datetime
) -> Transaction:
    """Post the mirror of a transaction, effective now; every balance is as if it were never made.

    What was accrued on rated lines is taken back with it, so the next accrual posts it again
    unless its usage changed.

    Raises:
        NotFound: no such transaction.
        Conflict: it was reversed before.
        LedgerError: it is a reversal itself.
    """
    found = store.stored_transaction(connection, transaction_id)
    if found is None:
        raise NotFound("no such transaction", field="transaction")
    undone = store.in_open_period(
        connection, mirrored(found, new_id=mint_id(now), at=max(now, found.effective_at))
    )
    if not store.post(connection, undone, now=now):
        raise Conflict("it was reversed before", field="transaction")
    return undone
