"""Verify that rollups are what the raw events add up to."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from billing.store.usage.read import rollup_differences


def verify_rollups(connection: sa.Connection) -> list[tuple[int, datetime, str]]:
    """Rollup rows that a re-aggregation of the raw events contradicts; empty when all is well.

    Returns:
        (tenant id, bucket, meter version) of each; reads every event, so it takes its time.
    """
    return rollup_differences(connection)
