"""The worker's turn at batches: those of which nobody knows whether they run are looked for, and
those that run and that it is time to ask about are asked about, a few at once.

How often is decided in `workers/tasks.py`, how a batch is settled in `settle_batch.py`. A batch
that does not add up, or whose results are gone, is said aloud: its tenant was served.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial

import structlog

from billing.errors import SteelyardError
from billing.operations.deployment import configured_backends
from billing.operations.metering.ask_batch import batch_client
from billing.operations.metering.find_batch import LOOKED_FOR_AFTER, BatchFinder
from billing.operations.metering.settle_batch import BatchSettler
from billing.settings import Settings
from billing.store.batch_runs import BatchState, intended_runs
from billing.store.batch_settlement import Settlement, due_batches
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.batches")

MOST_A_TURN = 200
ASKED_AT_ONCE = 4


def settle_batches(database: Database, settings: Settings, *, now: datetime) -> list[Settlement]:
    """Go on with every batch that is due; how far each one is."""
    with database.transaction(Role.OPERATOR) as connection:
        due = due_batches(connection, now=now, most=MOST_A_TURN)
        lost_sight = intended_runs(connection, before=now - LOOKED_FOR_AFTER, most=1)
    if not due and not lost_sight:
        return []
    try:
        backends = {spec.name: spec for spec in configured_backends(settings)}
    except SteelyardError as error:
        log.warning("the backends cannot be read", field=error.field, code=error.code)
        return []
    with batch_client() as client, ThreadPoolExecutor(max_workers=ASKED_AT_ONCE) as pool:
        if lost_sight:
            finder = BatchFinder(database=database, client=client, backends=backends)
            found_again, never_ran = finder.find(now=now)
            log.info("looked for batches", found=found_again, never_ran=never_ran)
        settler = BatchSettler(database=database, client=client, backends=backends)
        found = pool.map(partial(_settle, settler, now=now), due)
        return [each for each in found if each is not None]


def _settle(settler: BatchSettler, key: tuple[str, str], *, now: datetime) -> Settlement | None:
    backend, batch_id = key
    try:
        found = settler.settle(backend, batch_id, now=now)
    except SteelyardError as error:
        # It stops nobody else; another worker, or the next turn, goes on with it.
        log.warning("a batch cannot be settled", backend=backend, batch=batch_id, code=error.code)
        return None
    _tell(found)
    return found


def _tell(found: Settlement) -> None:
    said = {"backend": found.batch.backend, "batch": found.batch.batch_id, "tenant": found.tenant}
    if found.state is BatchState.LOST:
        log.error("the results of a batch are lost", problem=found.problem, **said)
    elif found.problem is not None:
        log.warning("a batch does not add up", problem=found.problem, **said)
    elif found.state is BatchState.BILLED:
        counted = found.counted
        log.info("a batch is billed", events=counted.events, errors=counted.errors, **said)
