"""Complaint 13: what a period costs grows with its buckets, not with the events of anybody.

The database's own counters of a transaction say what was read: rows, and how often an index was
entered, in every table. With ten times the events in the same buckets none of them changes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from billing.operations.invoicing.issue_invoice import issue_invoice
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store.database import Database, Role, query
from billing.store.usage.read import period_usage
from billing.tenancy.tenant import Tenant
from tests.world import MONTH_END, MONTH_START, World, make_world, usage_report

NOVEMBER = Period(start=MONTH_START, end=MONTH_END)
BUCKETS = 6
LEVELS = ("usage_rollup", "usage_rollup_day")

Work = Callable[[sa.Connection, Tenant], object]
Read = dict[str, tuple[int, int]]
"""Rows read and scans begun, by table."""


def usage(connection: sa.Connection, tenant: Tenant) -> object:
    return period_usage(connection, tenant_id=tenant.id, period=NOVEMBER)


def invoice(connection: sa.Connection, tenant: Tenant) -> object:
    return issue_invoice(connection, tenant=tenant, period=NOVEMBER, now=MONTH_END)


def accrual(connection: sa.Connection, tenant: Tenant) -> object:
    return accrue_usage(connection, tenant=tenant, period=NOVEMBER, now=MONTH_END)


def report(world: World, tenant: Tenant, per_bucket: int, *, since: datetime) -> None:
    """The same buckets, with so many events in each."""
    for bucket in range(BUCKETS):
        at = since - timedelta(minutes=15 * bucket)
        verdicts = world.report(
            tenant,
            *(
                usage_report(foreign_id=f"{at:%m%d%H%M}-{number}", occurred_at=at)
                for number in range(per_bucket)
            ),
        )
        assert {each.kind for each in verdicts} == {"accepted"}


def counted(connection: sa.Connection) -> Read:
    rows = query(
        connection,
        "SELECT CASE WHEN relname LIKE 'usage_event%' THEN 'usage_event' ELSE relname END AS name, "
        "sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) AS rows, "
        "sum(seq_scan + coalesce(idx_scan, 0)) AS scans "
        "FROM pg_stat_xact_user_tables WHERE relname LIKE 'usage%' GROUP BY 1",
    )
    return {row.name: (int(row.rows), int(row.scans)) for row in rows}


def read_by(world: World, tenant: Tenant, work: Work) -> Read:
    """What a piece of work reads of usage, in a transaction that is undone."""
    with world.database.transaction(Role.OPERATOR) as connection:
        # Which plan is chosen depends on statistics that nobody gathered here.
        connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        # The counters begin with what the session did before and has not handed in yet.
        before = counted(connection)
        work(connection, tenant)
        after = counted(connection)
        connection.rollback()
    read: Read = {}
    for name, (rows, scans) in after.items():
        earlier = before.get(name, (0, 0))
        if (rows, scans) != earlier:
            read[name] = (rows - earlier[0], scans - earlier[1])
    return read


@pytest.mark.parametrize("work", [usage, invoice, accrual])
def test_row_13_ten_times_the_events_are_read_at_the_same_cost(
    database: Database, now: datetime, work: Work
) -> None:
    world = make_world(database, now)
    few, many = world.tenant("few"), world.tenant("many")
    report(world, few, 3, since=world.now)
    report(world, many, 30, since=world.now)
    assert read_by(world, few, work) == read_by(world, many, work)
    read = read_by(world, many, work)
    # A read that knows the tenant's zone takes whole days: all of the buckets are in one.
    rolled = BUCKETS if work is usage else 1
    assert sum(read.get(level, (0, 0))[0] for level in LEVELS) >= rolled
    assert "usage_event" not in read


@pytest.mark.parametrize("work", [usage, invoice, accrual])
def test_row_13_history_and_other_tenants_cost_nothing(
    database: Database, now: datetime, work: Work
) -> None:
    world = make_world(database, now)
    tenant, neighbour = world.tenant("acme"), world.tenant("birch")
    report(world, tenant, 3, since=world.now)
    before = read_by(world, tenant, work)
    report(world, neighbour, 30, since=world.now)
    report(world, tenant, 30, since=MONTH_START - timedelta(days=20))
    after = read_by(world, tenant, work)
    assert [after.get(level) for level in LEVELS] == [before.get(level) for level in LEVELS]
    assert "usage_event" not in before
