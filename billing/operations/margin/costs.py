"""Record what a period cost."""

from __future__ import annotations

import hashlib
from datetime import datetime

import sqlalchemy as sa

from billing.planfiles.cost_file import CostSheet, read_costs
from billing.store import costs as store


def record_costs(connection: sa.Connection, text: str, *, now: datetime) -> CostSheet:
    """Store a cost file; the newest one of a period is what reports use.

    Raises:
        InvalidPlan: the file is refused; names line, field and remedy.
    """
    sheet = read_costs(text)
    store.insert_statement(
        connection,
        period=sheet.period,
        currency=sheet.currency,
        booked=sheet.booked,
        source=text,
        digest=hashlib.sha256(text.encode()).digest(),
        now=now,
    )
    return sheet
