"""Bytes on disk per event: the event, its indexes, its rollups, its key and its place in the seal.

And how long one tenant's month takes to read beside 50 million events of others.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime

import psycopg

from billing.operations.metering.read_usage import BY
from billing.period import Period
from billing.store.database import Database, Role
from billing.store.usage import levels
from billing.store.usage.levels import Question

OTHER_TENANTS = 1_000
"""Whose months lie beside the one that is read: 50 million events, 806 to a day and key."""
READS = 50

_PARTS = {
    "events": "c.relname LIKE 'usage\\_event\\_%'",
    "keys": "c.relname LIKE 'usage\\_key\\_%'",
    "rollups": "c.relname IN ('usage_rollup', 'usage_rollup_day', 'usage_run_total')",
    "seal": "c.relname IN ('seal_tree', 'seal_hashes', 'seal_fold', 'seal_head')",
}


def bytes_stored(owner: psycopg.Connection) -> dict[str, int]:
    """Bytes of tables with their indexes and long values, by part."""
    owner.execute("CHECKPOINT")
    sizes: dict[str, int] = {}
    for part, tables in _PARTS.items():
        query = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c "
            f"WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND {tables}"
        )
        row = owner.execute(query.encode()).fetchone()
        assert row is not None
        sizes[part] = int(row[0])
    return sizes


def month_reads(database: Database, owner: psycopg.Connection) -> list[float]:
    """Milliseconds to read one tenant's month by day, beside a month of many others.

    Synthetic: the day level is filled directly, with the rows that 50 million events would leave.
    """
    owner.execute(
        "INSERT INTO usage_rollup_day "
        "SELECT t, DATE '2026-10-01' + d, m, 1, 1, 1, k, 0, 806, 806, 0 "
        "FROM generate_series(%s::int, %s::int) AS t, generate_series(0, 30) AS d, "
        "generate_series(1, 5) AS m, generate_series(1, 2) AS k",
        (1_000_000, 1_000_000 + OTHER_TENANTS - 1),
    )
    owner.execute("ANALYZE usage_rollup_day")
    month = Period(start=datetime(2026, 10, 1, tzinfo=UTC), end=datetime(2026, 11, 1, tzinfo=UTC))
    took: list[float] = []
    for number in range(READS):
        tenant_id = 1_000_000 + number * (OTHER_TENANTS // READS)
        with database.transaction(Role.TENANT, tenant_id=tenant_id) as connection:
            question = Question(
                tenant_id=tenant_id, period=month, group="day", zone_name="UTC", by=BY
            )
            begun = time.perf_counter()
            rows = levels.usage(connection, question)
            took.append((time.perf_counter() - begun) * 1000)
        if len(rows) != 31 * 5:
            sys.exit(f"a month of {len(rows)} rows")
    return took
