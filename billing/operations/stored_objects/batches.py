"""Record a batch that a backend has taken, so that its lines are billed when it has run."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from billing.admission.binding import Binding
from billing.operations.stored_objects.bindings import bind
from billing.store import batch_runs as store
from billing.store import batch_settlement
from billing.store.batch_runs import BatchRun


def record_batch(connection: sa.Connection, batch: BatchRun, bindings: Sequence[Binding]) -> None:
    """Record a batch and bind its ids in one transaction: none is known that nobody settles.

    The same batch again changes nothing.

    Args:
        bindings: of the batch itself and of the files that its answer names.

    Raises:
        Conflict: as `bind`.
    """
    bind(connection, bindings)
    store.insert_run(connection, batch)


def is_awaited(connection: sa.Connection, binding: Binding) -> bool:
    """Whether a file may hold results that are not billed yet: deleted, nobody could bill them."""
    return batch_settlement.awaits_file(connection, binding)
