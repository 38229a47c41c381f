"""Settlement: when an outcome that was reached may be billed.

Decides: the end of the settlement window. It runs from the last event on the subject, so that a
subject that is reopened is not billed before it has been quiet for the whole window.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from billing.errors import InvalidInput
from billing.period import require_utc


def billable_at(
    resolved_at: datetime, *, later_events: Iterable[datetime] = (), window: timedelta
) -> datetime:
    """The first instant at which a resolved outcome may be billed.

    Args:
        resolved_at: when the outcome was reached.
        later_events: instants of further events on its subject, in any order.
        window: how long the subject must have been quiet.

    Raises:
        InvalidInput: a window below zero, or instants that are not in UTC.
    """
    if window < timedelta(0):
        raise InvalidInput("below zero", field="window", remedy="use 0 or more")
    events = [require_utc(instant, field="later_events") for instant in later_events]
    return max([require_utc(resolved_at, field="resolved_at"), *events]) + window
