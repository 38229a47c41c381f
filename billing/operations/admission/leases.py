"""Bring what requests drew from leases into the limits, with the events that say so.

A draw is counted in the transaction of its event, and only where the event is new: a page that
comes again draws nothing (L5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa

from billing.journal.records import Usage
from billing.metering.event_id import from_microseconds
from billing.store import leases as store


def draw_accepted(
    connection: sa.Connection, drawing: Sequence[Usage], accepted: Collection[bytes]
) -> None:
    """Count the draws of events that are new.

    Args:
        drawing: the events of a page that drew from leases.
        accepted: ids of the page's events that were new.
    """
    new = frozenset(accepted)
    amounts: Counter[int] = Counter()
    latest_us = 0
    for usage in drawing:
        if usage.id in new:
            latest_us = max(latest_us, usage.at_us)
            for draw in usage.draws:
                amounts[draw.lease] += draw.units
    if amounts:
        store.draw(connection, amounts, now=from_microseconds(latest_us))


def close_leases(connection: sa.Connection, instance: str) -> None:
    """Free what a process left of its leases; its journal is drained to the end."""
    store.close(connection, instance)


def sweep_leases(connection: sa.Connection, *, now: datetime) -> list[tuple[str, int, Decimal]]:
    """Free the leases of processes that were not heard of until their end.

    Returns:
        (process, limit, what was freed): by so much the limit may be exceeded, if the process's
        journal turns up after all.
    """
    return store.sweep(connection, now=now)
