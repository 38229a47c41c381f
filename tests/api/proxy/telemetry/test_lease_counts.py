"""Calls about leases, and leases that were lost, are counted where they happen."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from api.proxy.control.leases import LeaseKeeper
from api.proxy.limit_errors import HoldsUnavailable
from api.proxy.tally import Tally
from billing.admission.lease_book import Wanted
from billing.admission.limit import Unit
from billing.metering.event_id import microseconds
from billing.store.database import Database, Role
from tests.api.proxy.conftest import until
from tests.operations.lease_world import make_limit
from tests.world import make_world


async def test_calls_and_lost_leases(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    limit = make_limit(database, world.tenant("acme"), "calls", "100", now=now, unit=Unit.REQUESTS)
    one = [Wanted(limit=limit, amount=1)]
    keeper = LeaseKeeper(database, database.conninfo(), "p-1", now=lambda: now)
    tally = Tally()
    tally.include(keeper.counts.collect)
    try:
        keeper.release(await keeper.obtain(one, microseconds(now)), {})
        assert keeper.counts.calls["lease", "answered"] == 1
        with database.transaction(Role.OPERATOR) as connection:
            connection.execute(
                sa.text("SELECT * FROM sweep_leases(:at)"), {"at": now + timedelta(hours=1)}
            )
        await until(lambda: keeper.counts.lost)
    finally:
        await keeper.stop()
    told = tally.render().decode()
    assert "steelyard_proxy_lost_leases_total 1.0" in told
    answered = 'steelyard_proxy_lease_calls_total{call="lease",outcome="answered"} '
    assert answered in told


async def test_calls_that_fail(now: datetime, database: Database) -> None:
    world = make_world(database, now)
    limit = make_limit(database, world.tenant("acme"), "calls", "100", now=now, unit=Unit.REQUESTS)
    away = Database("postgresql+psycopg://nobody@127.0.0.1:9/none")
    keeper = LeaseKeeper(away, "", "p-1", now=lambda: now)
    with pytest.raises(HoldsUnavailable):
        await keeper.obtain([Wanted(limit=limit, amount=1)], microseconds(now))
    await keeper.stop()
    assert keeper.counts.calls["lease", "failed"] == 1
    assert not keeper.counts.lost
