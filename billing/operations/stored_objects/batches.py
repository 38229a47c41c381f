"""Batches, from the intention to have one run to its record.

Decides: that a batch is written down before a backend is asked to run it, with what it can cost
set aside of a prepaid tenant's credit; and that whatever then happens ends in one of two states:
it is recorded, so that its lines are billed, or it never ran, and nothing is set aside for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import sqlalchemy as sa

from billing.admission.binding import Binding
from billing.ledger.hold import HoldAnswer
from billing.money import EXACT
from billing.operations.stored_objects.bindings import bind
from billing.store import batch_runs as store
from billing.store import batch_settlement, holds, leases
from billing.store.batch_runs import BatchRun, BatchState

HOLD_FOR = timedelta(days=30)
"""A batch that is not settled by then holds no credit any more; what it cost is drawn all the
same."""

_PICO_PLACES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditWanted:
    """What a batch can cost at most.

    Attributes:
        limit_id: of the tenant's credit.
        amount: in 10⁻¹² of the major unit, above zero.
    """

    limit_id: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditShort:
    """The credit has not that much left. In 10⁻¹² of the major unit.

    Attributes:
        used: spent and held, what processes have leased included.
        capacity: all that is there.
        currency: its ISO code.
    """

    used: int
    capacity: int
    currency: str


def intend_batch(
    connection: sa.Connection, batch: BatchRun, *, credit: CreditWanted | None, now: datetime
) -> CreditShort | None:
    """Write down that a backend will be asked to run a batch; why not, if it cannot be paid.

    What processes have leased of the credit and do not use is called back, so that a second try
    a moment later may find more. The same batch again changes nothing.

    Args:
        batch: under the id of the request that asks for it; `hold_id` is set where `credit` is.
    """
    if credit is not None:
        assert batch.hold_id is not None
        answer = holds.take(
            connection,
            hold_id=batch.hold_id,
            limit_id=credit.limit_id,
            amount=_major(credit.amount),
            expires_at=batch.submitted_at + HOLD_FOR,
            now=now,
        )
        if answer is not HoldAnswer.TAKEN:
            leases.recall(connection, credit.limit_id, asker=batch.batch_id)
            return _short(connection, credit.limit_id, now=now)
    store.insert_run(connection, batch, state=BatchState.INTENDED)
    return None


def record_batch(
    connection: sa.Connection,
    batch: BatchRun,
    bindings: Sequence[Binding],
    *,
    request_id: str | None = None,
) -> None:
    """Record a batch and bind its ids in one transaction: none is known that nobody settles.

    The same batch again changes nothing, whoever records it.

    Args:
        bindings: of the batch itself and of the files that its answer names.
        request_id: by which it was intended; None: it was not.

    Raises:
        Conflict: as `bind`.
    """
    # Who binds the same id meanwhile waits here, and then sees what the first has recorded.
    bind(connection, bindings)
    backend, batch_id = batch.backend, batch.batch_id
    if request_id is not None:
        if store.read_run(connection, backend=backend, batch_id=batch_id) is not None:
            # It was found, and taken for an earlier intention of the same file.
            refuse_batch(connection, backend=backend, request_id=request_id, now=batch.submitted_at)
            return
        if store.name_intended(
            connection, backend=backend, request_id=request_id, batch_id=batch_id
        ):
            return
    store.insert_run(connection, batch)


def refuse_batch(
    connection: sa.Connection, *, backend: str, request_id: str, now: datetime
) -> None:
    """Note that a backend does not run a batch that was intended, and free what it held."""
    refused = store.refuse_intended(connection, backend=backend, request_id=request_id)
    if refused is not None:
        release_credit(connection, refused, now=now)


def release_credit(connection: sa.Connection, batch: BatchRun, *, now: datetime) -> None:
    """Free what a batch holds: what it cost is drawn, or it cost nothing. Twice is as once."""
    if batch.hold_id is None:
        return
    limit_id = holds.limit_of(connection, hold_id=batch.hold_id)
    if limit_id is not None:
        holds.resolve(
            connection,
            hold_id=batch.hold_id,
            limit_id=limit_id,
            outcome=HoldAnswer.VOIDED,
            used=Decimal(0),
            now=now,
        )


def is_awaited(connection: sa.Connection, binding: Binding) -> bool:
    """Whether a file may hold results that are not billed yet: deleted, nobody could bill them."""
    return batch_settlement.awaits_file(connection, binding)


def _short(connection: sa.Connection, limit_id: int, *, now: datetime) -> CreditShort:
    left, used, currency = holds.credit_standing(connection, limit_id, now=now)
    return CreditShort(used=_pico(used), capacity=_pico(left + used), currency=currency)


def _major(amount: int) -> Decimal:
    return EXACT.scaleb(Decimal(amount), -_PICO_PLACES)


def _pico(amount: Decimal) -> int:
    return int(EXACT.scaleb(amount, _PICO_PLACES))
