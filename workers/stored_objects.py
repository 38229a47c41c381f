"""The worker's turn at objects that backends keep: those that are over leave the database.

How often is decided in `workers/tasks.py`, what is over in `retire_objects.py`.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from functools import partial

import structlog

from billing.operations.stored_objects.retire_objects import (
    MOST_A_PAGE,
    KeptFor,
    Turn,
    retire_page,
    turns,
)
from billing.settings import Settings
from billing.store.database import Database, Role
from billing.store.object_retention import Place, Span

log = structlog.get_logger("steelyard.stored_objects")


def retire_objects(
    database: Database, settings: Settings, *, now: datetime, most: int = MOST_A_PAGE
) -> Counter[Span]:
    """Let everything that is over leave, page by page; how many objects by what ended them."""
    kept = KeptFor(
        responses=settings.stored_response_days,
        files=settings.stored_file_days,
        batches=settings.stored_batch_days,
    )
    gone: Counter[Span] = Counter()
    for turn in turns(kept, now=now):
        gone[turn.span] += _retire(database, turn, now=now, most=most)
    if any(gone.values()):
        expired = gone[Span.AGE] + gone[Span.END]
        log.info("objects of backends left", expired=expired, removed=gone[Span.DELETED])
    return +gone


def _retire(database: Database, turn: Turn, *, now: datetime, most: int) -> int:
    gone = 0
    after: Place | None = None
    while True:
        work = partial(retire_page, turn=turn, after=after, now=now, most=most)
        left = database.retrying(Role.OPERATOR, work)
        gone += left.gone
        if left.last is None:
            return gone
        after = left.last
