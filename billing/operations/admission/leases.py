"""Bring what requests drew from leases into the limits, with the events that say so.

A draw is counted in the transaction of its event, and only where the event is new; where there is
no event, with the cursor that passes its record: a page that comes again draws nothing (L5).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Final

import sqlalchemy as sa

from billing.journal.records import Usage, Void
from billing.metering.event_id import from_microseconds
from billing.store import leases as store

_MINUTE_US: Final = 60_000_000


def draw(connection: sa.Connection, drawing: Iterable[Usage | Void]) -> None:
    """Count what records draw.

    What was admitted while limits could not be asked had no lease: it counts in the limit itself,
    in the window in which it ended.

    Args:
        drawing: records of a page, none of which has been counted before.
    """
    leased: Counter[int] = Counter()
    unasked: defaultdict[int, Counter[int]] = defaultdict(Counter)
    latest_us = 0
    for record in drawing:
        latest_us = max(latest_us, record.at_us)
        for each in record.draws:
            if each.lease > 0:
                leased[each.lease] += each.units
            else:
                # Windows are whole minutes or longer, in every zone.
                unasked[record.at_us - record.at_us % _MINUTE_US][-each.lease] += each.units
    if leased:
        store.draw(connection, leased, now=from_microseconds(latest_us))
    for at_us in sorted(unasked):
        store.draw_on_limits(connection, unasked[at_us], now=from_microseconds(at_us))


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
