"""L6 on a real database: holds never exceed their limit, resolve once, and end by themselves."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from billing.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound
from billing.ledger.hold import CREDIT, SpendLimit
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.holds.holds import (
    expire_holds,
    extend_hold,
    post_hold,
    require_limit,
    set_limit,
    take_hold,
    void_hold,
)
from billing.operations.minting import mint_id
from billing.store.database import Database, Role, only, query
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.operations.crash_points import Crash, crash_before
from tests.world import World, make_world


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def acme(world: World) -> Tenant:
    return world.tenant("acme")


def limit_of(world: World, tenant: Tenant, capacity: str) -> SpendLimit:
    with world.database.transaction(Role.OPERATOR) as connection:
        return set_limit(
            connection,
            tenant=tenant,
            name="budget",
            currency_code="USD",
            capacity=Decimal(capacity),
            now=world.now,
        )


def take(
    connection: sa.Connection, world: World, limit: SpendLimit, amount: str, *, minutes: int = 5
) -> UUID:
    hold_id = mint_id(world.now)
    take_hold(
        connection,
        hold_id=hold_id,
        limit=limit,
        amount=Decimal(amount),
        expires_at=world.now + timedelta(minutes=minutes),
        now=world.now,
    )
    return hold_id


def as_it_stands(world: World, tenant: Tenant, name: str, at: datetime) -> SpendLimit:
    with world.database.transaction(Role.OPERATOR) as connection:
        return require_limit(connection, tenant=tenant, name=name, currency_code="USD", now=at)


@pytest.mark.parametrize("backed_by", ["budget", CREDIT])
def test_L6_eight_writers_never_exceed_a_limit_and_use_all_of_it(
    world: World, acme: Tenant, backed_by: str
) -> None:
    if backed_by == CREDIT:
        with world.database.transaction(Role.OPERATOR) as connection:
            give(connection, acme, "10.00", key="c", now=world.now)
        limit = as_it_stands(world, acme, CREDIT, world.now)
    else:
        limit = limit_of(world, acme, "10.00")

    def work(seed: int) -> int:
        chance, refused = random.Random(seed), 0
        for _ in range(60):
            try:
                with world.database.transaction(Role.OPERATOR) as connection:
                    hold = take(connection, world, limit, "0.1")
                with world.database.transaction(Role.OPERATOR) as connection:
                    if chance.random() < 0.3:
                        void_hold(connection, hold_id=hold, limit=limit, now=world.now)
                    else:
                        post_hold(
                            connection,
                            hold_id=hold,
                            limit=limit,
                            used=Decimal(chance.randint(0, 10)) / 100,
                            now=world.now,
                        )
            except Conflict:
                refused += 1
        return refused

    with ThreadPoolExecutor(8) as pool:
        refused = sum(pool.map(work, range(8)))
    after = as_it_stands(world, acme, backed_by, world.now)
    assert refused > 0
    assert after.held == 0
    assert Decimal("9.5") <= after.spent <= 10
    with world.database.transaction(Role.OPERATOR) as connection:
        posted = only(
            connection, "SELECT sum(amount) AS total FROM hold_event WHERE kind = 'posted'"
        ).total
        assert posted == after.spent
        require_ties(connection, acme)


def test_L6_a_hold_resolves_once_whoever_is_first(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "10.00")
    with world.database.transaction(Role.OPERATOR) as connection:
        hold = take(connection, world, limit, "5")

    def resolve(number: int) -> bool:
        try:
            with world.database.transaction(Role.OPERATOR) as connection:
                if number % 2:
                    post_hold(connection, hold_id=hold, limit=limit, used=Decimal(3), now=world.now)
                else:
                    void_hold(connection, hold_id=hold, limit=limit, now=world.now)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = [number % 2 for number, ok in enumerate(pool.map(resolve, range(32))) if ok]
    # The same resolution again has the same answer (L3); the other one is refused.
    assert len(done) == 16
    assert len(set(done)) == 1
    after = as_it_stands(world, acme, "budget", world.now)
    assert (after.held, after.spent) == (0, 3 * done[0])


def test_L6_expiry_frees_a_hold_without_a_sweep(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "1.00")
    with world.database.transaction(Role.OPERATOR) as connection:
        old = take(connection, world, limit, "1.00", minutes=1)
    later = world.now + timedelta(minutes=1)
    moved = World(database=world.database, now=later)
    with world.database.transaction(Role.OPERATOR) as connection:
        take(connection, moved, limit, "1.00")
        with pytest.raises(Conflict, match="resolved"):
            extend_hold(
                connection,
                hold_id=old,
                extension_id=mint_id(later),
                limit=limit,
                more=Decimal(0),
                expires_at=later + timedelta(minutes=1),
                now=later,
            )
        with pytest.raises(Conflict, match="resolved"):
            post_hold(connection, hold_id=old, limit=limit, used=Decimal(1), now=later)
        assert expire_holds(connection, now=later) == 0
        assert expire_holds(connection, now=later + timedelta(minutes=5)) == 1
        require_ties(connection, acme)


def test_L6_an_extension_counts_and_a_post_stays_within_it(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "1.00")
    with world.database.transaction(Role.OPERATOR) as connection:
        hold = take(connection, world, limit, "0.6")
        until = world.now + timedelta(minutes=9)
        with pytest.raises(Conflict, match="available"):
            extend_hold(
                connection,
                hold_id=hold,
                extension_id=mint_id(world.now),
                limit=limit,
                more=Decimal("0.5"),
                expires_at=until,
                now=world.now,
            )
        extend_hold(
            connection,
            hold_id=hold,
            extension_id=mint_id(world.now),
            limit=limit,
            more=Decimal("0.4"),
            expires_at=until,
            now=world.now,
        )
        with pytest.raises(Conflict, match="more than was held"):
            post_hold(
                connection, hold_id=hold, limit=limit, used=Decimal("1.000000000001"), now=world.now
            )
        post_hold(connection, hold_id=hold, limit=limit, used=Decimal("0.7"), now=world.now)
        take(connection, world, limit, "0.3")
        require_ties(connection, acme)


def test_L3_the_same_hold_again_is_the_same_hold(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "1.00")
    same = {"hold_id": mint_id(world.now), "limit": limit, "now": world.now}
    until = world.now + timedelta(minutes=1)
    with world.database.transaction(Role.OPERATOR) as connection:
        for _ in range(2):
            take_hold(connection, **same, amount=Decimal("0.8"), expires_at=until)
        with pytest.raises(IdempotencyConflict):
            take_hold(connection, **same, amount=Decimal("0.7"), expires_at=until)
        with pytest.raises(NotFound):
            void_hold(connection, hold_id=mint_id(world.now), limit=limit, now=world.now)
        with pytest.raises(InvalidInput):
            take(connection, world, limit, "0")
        with pytest.raises(InvalidInput):
            take(connection, world, limit, "0.1", minutes=0)
    assert as_it_stands(world, acme, "budget", world.now).held == Decimal("0.8")


def test_L3_the_same_extension_adds_once_even_when_the_hold_is_resolved(
    world: World, acme: Tenant
) -> None:
    limit = limit_of(world, acme, "1.00")
    until = world.now + timedelta(minutes=9)
    with world.database.transaction(Role.OPERATOR) as connection:
        hold = take(connection, world, limit, "0.5")
        same = {"hold_id": hold, "extension_id": mint_id(world.now), "limit": limit}
        for _ in range(2):
            extend_hold(connection, **same, more=Decimal("0.3"), expires_at=until, now=world.now)
        with pytest.raises(IdempotencyConflict):
            extend_hold(connection, **same, more=Decimal("0.2"), expires_at=until, now=world.now)
        post_hold(connection, hold_id=hold, limit=limit, used=Decimal("0.8"), now=world.now)
        extend_hold(connection, **same, more=Decimal("0.3"), expires_at=until, now=world.now)
        require_ties(connection, acme)
    assert as_it_stands(world, acme, "budget", world.now).spent == Decimal("0.8")


def test_L5_a_hold_is_whole_or_not_there_at_any_crash(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "1.00")
    hold, until = mint_id(world.now), world.now + timedelta(minutes=1)

    def work() -> None:
        with world.database.transaction(Role.OPERATOR) as connection:
            take_hold(
                connection,
                hold_id=hold,
                limit=limit,
                amount=Decimal(1),
                expires_at=until,
                now=world.now,
            )
        with world.database.transaction(Role.OPERATOR) as connection:
            post_hold(connection, hold_id=hold, limit=limit, used=Decimal("0.4"), now=world.now)

    for number in range(1, 20):
        try:
            with crash_before(world.database.engine, number):
                work()
        except Crash:
            with world.database.transaction(Role.OPERATOR) as connection:
                require_ties(connection, acme)
    work()
    after = as_it_stands(world, acme, "budget", world.now)
    assert (after.held, after.spent) == (0, Decimal("0.4"))


def test_posted_holds_stop_counting_once_their_usage_is_settled(world: World, acme: Tenant) -> None:
    later = world.now + timedelta(minutes=1)
    with world.database.transaction(Role.OPERATOR) as connection:
        give(connection, acme, "10.00", key="c", now=world.now)
        limit = require_limit(
            connection, tenant=acme, name=CREDIT, currency_code="USD", now=world.now
        )
        hold = take(connection, world, limit, "4")
        post_hold(connection, hold_id=hold, limit=limit, used=Decimal(3), now=world.now)
    assert as_it_stands(world, acme, CREDIT, world.now).available == 7
    with world.database.transaction(Role.OPERATOR) as connection:
        for _ in range(2):
            apply_credits(
                connection,
                tenant=acme,
                period=acme.billing_period(world.now),
                settled_through=later,
                now=later,
            )
    settled = as_it_stands(world, acme, CREDIT, later)
    assert (settled.spent, settled.available) == (0, 10)


def test_T1_a_tenant_sees_its_own_limit_and_takes_no_hold(world: World, acme: Tenant) -> None:
    limit = limit_of(world, acme, "1.00")
    other = world.tenant("birch")
    ask = "SELECT limit_available(:limit, now()) AS available"
    with world.database.transaction(Role.TENANT, tenant_id=acme.id) as connection:
        assert only(connection, ask, limit=limit.id).available == 1
    with world.database.transaction(Role.TENANT, tenant_id=other.id) as connection:
        assert only(connection, ask, limit=limit.id).available is None
        with pytest.raises(DBAPIError, match="permission denied"):
            query(connection, "SELECT expire_open_holds(:limit, now())", limit=limit.id)
