"""Limits as tenants and operators both read them.

Capacities and amounts are text: money in major units of the limit's currency, everything else
whole numbers.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from billing.admission.limit import Unit, Window
from billing.money import plain
from billing.operations.holds.define_limit import LimitView


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit as it stands: capacity = used + leased + left, unless it was lowered below that.

    `leased` is set aside for running requests. The present window is over at `resets_at`; null
    where the limit has none. Once `ended_at` is set it counts nothing.
    """

    name: str
    unit: Unit
    window: Window
    currency: str | None
    capacity: str
    hard: bool
    shadow: bool
    project: str | None
    key: str | None
    model: str | None
    used: str
    leased: str
    left: str
    resets_at: datetime | None
    ended_at: datetime | None


def show_limit(view: LimitView) -> Limit:
    """A limit's document."""
    row = view.row
    return Limit(
        name=row.name,
        unit=row.unit,
        window=row.window,
        currency=row.currency,
        capacity=plain(row.capacity),
        hard=row.hard,
        shadow=row.shadow,
        project=row.project,
        key=row.key,
        model=row.model,
        used=plain(row.used),
        leased=plain(row.leased),
        left=plain(row.left),
        resets_at=view.resets_at,
        ended_at=row.ended_at,
    )
