"""The worker's upkeep of the usage ledger."""

from __future__ import annotations

from datetime import datetime, timedelta

from billing.metering.usage_event import VerdictKind
from billing.settings import Settings
from billing.store.database import Database
from tests.world import make_world, usage_report
from workers.upkeep import check_rollups, keep_months, release_parked

AHEAD = timedelta(hours=1)


def test_a_report_from_the_future_is_counted_once_its_time_has_come(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    (verdict,) = world.report(world.tenant(), usage_report(occurred_at=now + AHEAD))
    assert verdict.kind is VerdictKind.PARKED
    assert release_parked(database, now=now) == {}
    assert release_parked(database, now=now + AHEAD) == {VerdictKind.ACCEPTED: 1}
    assert release_parked(database, now=now + AHEAD) == {}


def test_rollups_are_compared_with_their_events(database: Database, now: datetime) -> None:
    world = make_world(database, now)
    world.use(world.tenant(), {"tokens.input": 5})
    assert check_rollups(database) == []


def test_no_month_leaves_unless_the_deployment_says_so(database: Database, now: datetime) -> None:
    later = now + timedelta(days=400)
    assert keep_months(database, Settings(retention_months=None), now=later) == []
