"""Outcomes: one claim per subject, billed once, and only when the tenant says so (O1, O2, O3)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
import sqlalchemy as sa

from billing.errors import Conflict, Forbidden, InvalidInput, NotFound
from billing.operations.metering.read_usage import requests_of, usage_of
from billing.operations.outcomes.claims import confirm_outcome, list_claims, report_outcome
from billing.operations.rating.rate_period import rate_period
from billing.outcomes.claim import Actor, Claim, ClaimState
from billing.store.database import Database, Role
from billing.store.usage.verify import rollup_differences
from billing.tenancy.tenant import Tenant
from tests.world import World, make_world

METER = "outcome.ticket-resolved"


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant()


def report(
    world: World,
    tenant: Tenant,
    subject: str = "ticket 1",
    *,
    actor: Actor = Actor.OPERATOR,
    outcome: str = "ticket-resolved",
    occurred_at: datetime | None = None,
) -> Claim:
    role = Role.OPERATOR if actor is Actor.OPERATOR else Role.TENANT
    with world.database.transaction(
        role, tenant_id=tenant.id if role is Role.TENANT else None
    ) as connection:
        return report_outcome(
            connection,
            tenant=tenant,
            outcome=outcome,
            subject=subject,
            occurred_at=occurred_at or world.now,
            actor=actor,
            key_id=1,
            now=world.now,
        )


def confirm(world: World, tenant: Tenant, claim: Claim, *, actor: Actor = Actor.TENANT) -> Claim:
    role = Role.OPERATOR if actor is Actor.OPERATOR else Role.TENANT
    with world.database.transaction(
        role, tenant_id=tenant.id if role is Role.TENANT else None
    ) as connection:
        return confirm_outcome(
            connection,
            tenant=tenant,
            claim_id=claim.id,
            actor=actor,
            key_id=1,
            now=world.now + timedelta(minutes=1),
        )


def billed(world: World, tenant: Tenant) -> Decimal:
    """Outcomes that the period's usage holds, after checking them against events and claims."""
    period = tenant.billing_period(world.now)
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = usage_of(connection, tenant=tenant, period=period, group="none")
        events = requests_of(connection, tenant=tenant, period=period, limit=1000)
        claims = list_claims(connection, tenant_id=tenant.id, limit=1000)
        assert rollup_differences(connection) == []
    assert {event.id for event in events} == {
        claim.usage_event_id for claim in claims if claim.state is ClaimState.CONFIRMED
    }
    return sum((row.quantity for row in rows if row.meter == METER), Decimal(0))


def transitions(world: World) -> list[tuple[str | None, str, str]]:
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = connection.execute(
            sa.text(
                "SELECT from_state, to_state, actor FROM outcome_transition ORDER BY at, ordinal"
            )
        )
        return [(row.from_state, row.to_state, row.actor) for row in rows]


def test_O3_nothing_is_billed_before_the_tenant_confirms(world: World, acme: Tenant) -> None:
    claim = report(world, acme)
    assert (claim.state, claim.usage_event_id, claim.confirmed_at) == ("reported", None, None)
    assert billed(world, acme) == 0
    with pytest.raises(Forbidden):
        confirm(world, acme, claim, actor=Actor.OPERATOR)
    assert billed(world, acme) == 0

    confirmed = confirm(world, acme, claim)
    assert confirmed.state is ClaimState.CONFIRMED
    assert confirmed.confirmed_at == world.now + timedelta(minutes=1)
    assert billed(world, acme) == 1
    with pytest.raises(Conflict):
        confirm(world, acme, claim, actor=Actor.OPERATOR)
    with world.database.transaction(Role.OPERATOR) as connection:
        rated = rate_period(connection, tenant=acme, period=acme.billing_period(world.now))
    (contract,) = rated.contracts
    assert {line.key: line.exact for line in contract.rating.lines}["resolved"] == Decimal("0.99")
    assert rated.unrated == ()


def test_O2_one_subject_is_one_claim_whoever_reports_it(world: World, acme: Tenant) -> None:
    claim = report(world, acme)
    confirm(world, acme, claim)
    again = report(world, acme, actor=Actor.TENANT, occurred_at=world.now - timedelta(days=1))
    assert (again.id, again.state) == (claim.id, ClaimState.CONFIRMED)
    assert transitions(world) == [
        (None, "reported", "operator"),
        ("reported", "confirmed", "tenant"),
    ]
    other = report(world, acme, "ticket 2")
    assert other.id != claim.id
    assert billed(world, acme) == 1


def test_O2_confirming_twice_is_one_event(world: World, acme: Tenant) -> None:
    claim = report(world, acme)
    assert confirm(world, acme, claim) == confirm(world, acme, claim)
    assert billed(world, acme) == 1
    assert len(transitions(world)) == 2


def test_O2_threads_that_report_and_confirm_bill_once(world: World, acme: Tenant) -> None:
    threads = 6
    start = threading.Barrier(threads)

    def act(number: int) -> tuple[Claim, Claim]:
        start.wait()
        actor = Actor.TENANT if number % 2 else Actor.OPERATOR
        claim = report(world, acme, actor=actor)
        return claim, confirm(world, acme, claim)

    with ThreadPoolExecutor(threads) as pool:
        answers = list(pool.map(act, range(threads)))
    assert len({claim.id for pair in answers for claim in pair}) == 1
    assert len({confirmed.usage_event_id for _, confirmed in answers}) == 1
    assert billed(world, acme) == 1
    assert len(transitions(world)) == 2


def test_T1_a_claim_of_another_tenant_is_not_there(world: World, acme: Tenant) -> None:
    birch = world.tenant("birch")
    claim = report(world, acme)
    with pytest.raises(NotFound):
        confirm(world, birch, claim)
    assert report(world, birch).id != claim.id
    with world.database.transaction(Role.TENANT, tenant_id=birch.id) as connection:
        assert [c.tenant for c in list_claims(connection, tenant_id=None, limit=10)] == ["birch"]
    assert billed(world, acme) == billed(world, birch) == 0


def test_what_cannot_be_a_claim_is_refused_and_nothing_is_stored(
    world: World, acme: Tenant
) -> None:
    for subject in ("", "a\0b", "x" * 257, "é" * 129):
        with pytest.raises(InvalidInput) as refused:
            report(world, acme, subject)
        assert not subject or subject not in str(refused.value)
    with pytest.raises(InvalidInput):
        report(world, acme, occurred_at=world.now + timedelta(hours=1))
    with pytest.raises(InvalidInput):
        report(world, acme, occurred_at=world.now.replace(tzinfo=None))
    with pytest.raises(NotFound):
        report(world, acme, outcome="unheard-of")
    claim = report(world, acme)
    with pytest.raises(NotFound):
        confirm(world, acme, replace(claim, id=uuid4()))
    assert transitions(world) == [(None, "reported", "operator")]
