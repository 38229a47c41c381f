"""Undo a posted transaction by another one that mirrors it.

Decides: a transaction that stands for a state kept elsewhere (an invoice, a payment, a credit
grant) is not reversed here, because that state would stay as it is and the books would no longer
tell the same. Those are undone where they were made.
"""

from __future__ import annotations

from datetime import datetime
from types import MappingProxyType
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from billing.errors import Conflict, NotFound
from billing.ledger.posting import Transaction, mirrored
from billing.operations.minting import mint_id
from billing.store import ledger as store

_CORRECT = (
    "correct its usage with `steelyard usage void` or `usage amend`; the next invoice bills the "
    "difference"
)
INSTEAD: Final = MappingProxyType(
    {
        "invoice_issued": _CORRECT,
        "credit_note_issued": _CORRECT,
        "payment_received": "refund the payment where it was received",
        "credits_bought": "void the grant with `steelyard credit void`",
        "credits_paid_back": "grant the credit again with `steelyard credit grant`",
        "credits_broken": "grant the credit again with `steelyard credit grant`",
        "credits_used": "correct the usage that the credit paid for",
        "credits_redeemed": _CORRECT,
        "credits_restored": "correct the usage again that the credit was given back for",
    }
)
"""What to do instead, by the kind of a transaction that is the effect of another state."""


def reverse_transaction(
    connection: sa.Connection, transaction_id: UUID, *, now: datetime
) -> Transaction:
    """Post the mirror of a transaction, effective now; every balance is as if it were never made.

    What was accrued on rated lines is taken back with it, so the next accrual posts it again
    unless its usage changed.

    Raises:
        NotFound: no such transaction.
        Conflict: it was reversed before, or follows from something that is undone in its own way.
        LedgerError: it is a reversal itself.
    """
    found = store.stored_transaction(connection, transaction_id)
    if found is None:
        raise NotFound(
            "no such transaction", field="transaction", remedy="use an id that the journal shows"
        )
    instead = INSTEAD.get(found.kind)
    if instead is not None:
        raise Conflict(
            f"a transaction of kind {found.kind} follows from a state that a reversal would leave "
            "as it is",
            field="transaction",
            remedy=instead,
        )
    undone = store.in_open_period(
        connection, mirrored(found, new_id=mint_id(now), at=max(now, found.effective_at))
    )
    if not store.post(connection, undone, now=now):
        raise Conflict(
            "it was reversed before", field="transaction", remedy="post anew what should stand"
        )
    return undone
