"""Many tenants accrued from one page: the postings of one by one, and nothing a second time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from billing.operations.catalog.contracts import bound_plans
from billing.operations.rating.accrue_tenants import accrue_tenants
from billing.operations.rating.accrue_usage import accrue_usage
from billing.operations.rating.rate_tenants import tenant_periods
from billing.store import ledger
from billing.store.books import account_differences
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.operations.crash_points import Crash, crash_before
from tests.world import World, make_world


def accrue(world: World, tenants: Sequence[Tenant]) -> int:
    with world.database.transaction(Role.OPERATOR) as connection:
        periods = [(tenant, tenant.billing_period(world.now)) for tenant in tenants]
        asked = tenant_periods(connection, periods, bound_plans(connection))
        return sum(each.posted for each in accrue_tenants(connection, asked, now=world.now))


def test_R4_a_page_posts_what_each_tenant_posts_and_then_nothing(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    tenants = [world.tenant(slug) for slug in ("acme", "birch", "cedar")]
    for number, tenant in enumerate(tenants):
        world.use(tenant, {"tokens.input": 1_234_567 * number, "tokens.output": 7_654_321})
    assert accrue(world, tenants) == 3
    with database.transaction(Role.OPERATOR) as connection:
        before = ledger.totals(connection)
        for tenant in tenants:
            period = tenant.billing_period(now)
            assert accrue_usage(connection, tenant=tenant, period=period, now=now) == 0
        assert ledger.totals(connection) == before != {}
    assert accrue(world, tenants) == 0
    world.use(tenants[1], {"tokens.input": 5})
    assert accrue(world, tenants) == 1


def test_L5_a_page_that_dies_anywhere_posts_nothing_and_then_once(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    tenants = [world.tenant(slug) for slug in ("acme", "birch", "cedar")]
    for tenant in tenants:
        world.use(tenant, {"tokens.input": 1_234_567, "tokens.output": 7_654_321})
    number = 0
    while True:
        number += 1
        try:
            with crash_before(database.engine, number):
                assert accrue(world, tenants) == 3
        except Crash:
            with database.transaction(Role.OPERATOR) as connection:
                assert ledger.totals(connection) == {}
            continue
        break
    assert number > 5
    assert accrue(world, tenants) == 0
    with database.transaction(Role.OPERATOR) as connection:
        assert account_differences(connection) == []
