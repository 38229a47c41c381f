"""The worker's part in the seal: fold what was committed, tell the witness, check what is recent.

How often is decided in `workers/tasks.py`. What is found wrong is logged by name, and the
next turn finds it again until somebody has looked.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from billing.operations.seal.fold import seal_all, seal_key
from billing.operations.seal.verify import Finding, verify_seal
from billing.operations.seal.witness import push_heads
from billing.settings import Settings
from billing.store.database import Database, Role
from billing.store.seal.folds import newest_fold, recent_size

log = structlog.get_logger("steelyard.seal")

RECENT_FOLDS = 10
FIRST_FOLDS = 500
"""What a worker checks first: the folds of two hours, of which nobody knows whether its
predecessor came to check them."""


def seal_ledgers(database: Database, settings: Settings, *, now: datetime) -> int:
    """Seal what is new and send the newest head on; how many folds were made.

    Raises:
        ConfigurationError: the key file cannot be used.
    """
    folded = seal_all(database, seal_key(settings), now=now)
    url = settings.witness_url
    if url is not None and not push_heads(database, url, now=now):
        log.warning("the witness did not take the newest head; it is sent again")
    return len(folded)


class SealWatch:
    """Verifies each fold at least once after it was made, and the newest ones again and again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clean_to: int | None = None

    def check(self) -> list[Finding]:
        """Verify what was sealed since the last clean check and lately; log each finding."""
        with self._database.transaction(Role.OPERATOR, snapshot=True) as connection:
            kept = FIRST_FOLDS if self._clean_to is None else RECENT_FOLDS
            above = recent_size(connection, folds=kept)
            if self._clean_to is not None:
                above = min(above, self._clean_to)
            found = verify_seal(connection, above=above)
            newest = newest_fold(connection)
        for finding in found:
            log.error(
                "not as it was sealed",
                kind=finding.kind,
                subject=finding.subject,
                problem=finding.problem,
            )
        if not found and newest is not None:
            self._clean_to = newest.size
        return found
