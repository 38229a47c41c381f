"""The worker's sweep of leases: those of processes that were not heard of until their end."""

from __future__ import annotations

from datetime import datetime

import structlog

from billing.operations.admission.leases import sweep_leases
from billing.store.database import Database, Role

log = structlog.get_logger("steelyard.leases")


def free_lost_leases(database: Database, *, now: datetime) -> int:
    """Free the leases of lost processes; how many. Each is logged: it may be overspent by so much.

    The journal of a process that died on a host that lives is drained long before this; what is
    left for here are hosts that are lost, and journals that nobody ships.
    """
    swept = database.retrying(Role.OPERATOR, lambda connection: sweep_leases(connection, now=now))
    for instance, limit_id, freed in swept:
        log.warning("a lease was lost", instance=instance, limit=limit_id, overspend=str(freed))
    return len(swept)
