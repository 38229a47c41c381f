"""Which ids still have a month to lie in: rows of months that have left would have no place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from billing.metering.event_id import milliseconds
from billing.store.retention import horizon

Row = TypeVar("Row")


def kept(
    connection: sa.Connection, rows: Sequence[Row], id_of: Callable[[Row], UUID]
) -> Sequence[Row]:
    """The rows whose id was minted in a month that the database keeps.

    The others came later than their month's archive, with an operation that is in neither.
    """
    oldest = horizon(connection) if rows else None
    if oldest is None:
        return rows
    from_ms = milliseconds(oldest)
    return [row for row in rows if id_of(row).int >> 80 >= from_ms]
