"""Which month a tenant's revenue belongs to, and which model, in reports over any span."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing.margin.report import GroupBy, MarginReport
from billing.operations.margin.costs import record_costs
from billing.operations.margin.report_margin import report_margin
from billing.operations.rating.accrue_usage import accrue_usage
from billing.period import Period
from billing.store.database import Database, Role
from tests.world import MONTH_END, MONTH_START, make_world

TWO_MODELS = """
slug: standard
name: Standard
currency: USD
charges:
  - {type: per_unit, key: input, description: Input, meter: tokens.input, price: "1", per: 1000000}
"""


def _report(database: Database, period: Period, group_by: GroupBy) -> MarginReport:
    costs = f"""
currency: USD
period: {{from: "{period.start:%Y-%m-%dT%H:%M:%SZ}", to: "{period.end:%Y-%m-%dT%H:%M:%SZ}"}}
pools:
  - slug: chat
    gpu: {{hours: 10, rate: "2.10"}}
    models:
      tiny: {{input: 52000, output: 9800}}
      large: {{input: 9200, output: 1850}}
"""
    with database.transaction(Role.OPERATOR) as connection:
        record_costs(connection, costs, now=MONTH_END)
    with database.transaction(Role.OPERATOR, snapshot=True) as connection:
        return report_margin(connection, period=period, group_by=group_by)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "Europe/Berlin", "UTC", "America/Los_Angeles"])
def test_M2_a_months_revenue_is_in_that_months_report_wherever_the_tenant_is(
    database: Database, now: datetime, zone: str
) -> None:
    world = make_world(database, now)
    acme = world.tenant(zone=zone)
    with database.transaction(Role.OPERATOR) as connection:
        accrue_usage(connection, tenant=acme, period=acme.billing_period(now), now=now)
    month = Period(start=MONTH_START, end=MONTH_END)
    before = Period(start=datetime(2026, 10, 1, tzinfo=UTC), end=MONTH_START)
    assert _report(database, month, GroupBy.TENANT).posted == Decimal(20)
    assert _report(database, before, GroupBy.TENANT).posted == 0


def test_M2_a_line_of_two_periods_is_split_over_models_by_each_ones_usage(
    database: Database, now: datetime
) -> None:
    december = MONTH_END + timedelta(days=10)
    world = make_world(database, december, plan=TWO_MODELS)
    acme = make_world(database, now, plan=TWO_MODELS).tenant()
    world.use(acme, {"tokens.input": 3_000_000}, model="tiny", occurred_at=now)
    world.use(acme, {"tokens.input": 5_000_000}, model="large", occurred_at=december)
    for instant in (now, december):
        with database.transaction(Role.OPERATOR) as connection:
            accrue_usage(connection, tenant=acme, period=acme.billing_period(instant), now=december)
    both = Period(start=MONTH_START, end=datetime(2027, 1, 1, tzinfo=UTC))
    rows = {row.key: row.revenue for row in _report(database, both, GroupBy.MODEL).rows}
    assert (rows["tiny"], rows["large"]) == (3, 5)
