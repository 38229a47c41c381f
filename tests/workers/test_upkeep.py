"""The worker's upkeep: of the usage ledger, of credit and of holds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.ledger.top_up import TopUpState
from billing.metering.usage_event import VerdictKind
from billing.operations.credits.grant_credit import require_grant
from billing.operations.credits.read_credits import read_credit
from billing.operations.credits.top_ups import list_top_ups, set_top_up_policy
from billing.operations.holds.holds import set_limit, take_hold
from billing.operations.minting import mint_id
from billing.settings import Settings
from billing.store.database import Database, Role
from tests.credits.grants import POLICY, give, require_ties
from tests.operations.crash_points import Crash, crash_before
from tests.world import MONTH_END, make_world, usage_report
from workers.rating import accrue_changes
from workers.upkeep import (
    Tended,
    check_rollups,
    free_holds,
    keep_months,
    release_parked,
    tend_credit,
)

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


def test_L3_credit_recurs_expires_after_its_grace_and_asks_for_top_ups_once(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    settings = Settings(credit_grace_hours=2)
    with database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "4.00", key="monthly", now=now, recurs=True)
        set_top_up_policy(connection, tenant=acme, currency_code="USD", policy=POLICY, now=now)
    assert tend_credit(database, settings, now=now) == Tended(granted_again=0, expired=0, top_ups=1)
    begun = Tended(granted_again=1, expired=0, top_ups=1)
    assert tend_credit(database, settings, now=MONTH_END) == begun
    graced = MONTH_END + timedelta(hours=2)
    assert tend_credit(database, settings, now=graced).expired == 1
    assert tend_credit(database, settings, now=graced) == Tended(
        granted_again=0, expired=0, top_ups=1
    )
    with database.transaction(Role.OPERATOR) as connection:
        view = read_credit(connection, tenant=acme, now=graced)
        asked = list_top_ups(connection, tenant=acme, currency_code="USD")
        require_ties(connection, acme)
    assert [balance.available for balance in view.balances] == [4]
    assert {each.state for each in asked} == {TopUpState.REQUESTED}


def test_L5_a_turn_that_dies_anywhere_is_made_up_by_the_next(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    settings = Settings(credit_grace_hours=0)
    policy = replace(POLICY, count_max=1)
    with database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "4.00", key="monthly", now=now, recurs=True)
        set_top_up_policy(connection, tenant=acme, currency_code="USD", policy=policy, now=now)
    for number in range(1, 40):
        with suppress(Crash), crash_before(database.engine, number):
            tend_credit(database, settings, now=MONTH_END)
    tend_credit(database, settings, now=MONTH_END)
    with database.transaction(Role.OPERATOR) as connection:
        view = read_credit(connection, tenant=acme, now=MONTH_END)
        assert len(list_top_ups(connection, tenant=acme, currency_code="USD")) == 1
        require_ties(connection, acme)
    assert [(row.remaining, row.expired) for row in view.grants] == [(0, 4), (4, 0)]


def test_L6_holds_past_their_end_are_freed_though_nobody_asks(
    database: Database, now: datetime
) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    ends = now + timedelta(minutes=1)
    with database.transaction(Role.OPERATOR) as connection:
        limit = set_limit(
            connection,
            tenant=acme,
            name="budget",
            currency_code="USD",
            capacity=Decimal(1),
            now=now,
        )
        take_hold(
            connection,
            hold_id=mint_id(now),
            limit=limit,
            amount=Decimal(1),
            expires_at=ends,
            now=now,
        )
    assert free_holds(database, now=now) == 0
    assert free_holds(database, now=ends) == 1
    assert free_holds(database, now=ends) == 0


@pytest.mark.parametrize("runs", [1, 3])
def test_C1_the_worker_pays_what_it_accrues(database: Database, now: datetime, runs: int) -> None:
    world = make_world(database, now)
    acme = world.tenant()
    world.use(acme, {"tokens.input": 5_000_000})
    with database.transaction(Role.OPERATOR) as connection:
        start = acme.billing_period(now).start
        row = give(connection, acme, "50.00", key="k", now=now, starts_at=start)
    for _ in range(runs):
        accrue_changes(database, now=now)
    with database.transaction(Role.OPERATOR) as connection:
        assert require_grant(connection, row.grant.id).used == 21
        require_ties(connection, acme)
