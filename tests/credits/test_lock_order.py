"""Operations on credit of several tenants at once: all of them take their locks in one order."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from threading import Barrier, BrokenBarrierError, local
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from billing.ledger.hold import CREDIT
from billing.operations.catalog.contracts import bind_contract, end_contract, list_contracts
from billing.operations.credits.apply_credits import apply_credits
from billing.operations.credits.grant_credit import void_grant
from billing.operations.credits.lapse_credits import expire_grants, issue_recurring
from billing.operations.holds.holds import expire_holds, require_limit, take_hold
from billing.operations.minting import mint_id
from billing.operations.rating.accrue_due import accrue_due
from billing.store import credits as store
from billing.store.database import Database, Role
from billing.tenancy.tenant import Tenant
from tests.credits.grants import give, require_ties
from tests.world import MONTH_END, PLAN, World, make_world

Work: TypeAlias = Callable[[sa.Connection], object]

LATER = MONTH_END + timedelta(days=1)
"""When holds are past their end, grants have lapsed, and what recurs is due again."""

_LOCKS = ("FOR UPDATE", "expire_open_holds", "INTO credit_event")
"""What statements that take a row of a limit have in them."""


@pytest.fixture
def world(database: Database, now: datetime) -> World:
    return make_world(database, now)


@pytest.fixture
def pair(world: World) -> tuple[Tenant, Tenant]:
    """Two tenants with usage, and with credit of which some lapses, recurs and is held.

    Their limits are in the opposite order of their own ids.
    """
    acme, beta = world.tenant("acme"), world.tenant("beta")
    for tenant in (beta, acme):
        world.use(tenant, {"tokens.input": 5_000_000})
        with world.database.transaction(Role.OPERATOR) as connection:
            give(connection, tenant, "9.00", key="kept", now=world.now)
            give(connection, tenant, "4.00", key="monthly", now=world.now, recurs=True)
            ends = {"paid": True, "expires_at": MONTH_END}
            give(connection, tenant, "3.00", key="ends", now=world.now, **ends)
            _hold(connection, tenant, "USD", now=world.now)
    return acme, beta


def _hold(connection: sa.Connection, tenant: Tenant, code: str, *, now: datetime) -> None:
    take_hold(
        connection,
        hold_id=mint_id(now),
        limit=require_limit(connection, tenant=tenant, name=CREDIT, currency_code=code, now=now),
        amount=Decimal(1),
        expires_at=now + timedelta(minutes=1),
        now=now,
    )


def _void(connection: sa.Connection, tenant: Tenant) -> None:
    kept = store.grant_by_key(connection, tenant_id=tenant.id, key="kept")
    assert kept is not None
    void_grant(connection, grant_id=kept.grant.id, now=LATER)


def _accrue(connection: sa.Connection, tenants: tuple[Tenant, Tenant]) -> None:
    accrue_due(connection, [tenant.id for tenant in tenants], now=LATER)


@contextmanager
def _met(engine: sa.Engine) -> Generator[None]:
    """Two threads wait for each other once each of them has its first limit.

    Where the second cannot have any before the first ends, the first does not wait for ever.
    """
    both, mine = Barrier(2), local()

    def meet(connection: object, cursor: object, statement: str, *rest: Any) -> None:
        del connection, cursor, rest
        if any(lock in statement for lock in _LOCKS) and not hasattr(mine, "met"):
            mine.met = True
            with suppress(BrokenBarrierError):
                both.wait(timeout=0.5)

    event.listen(engine, "after_cursor_execute", meet)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", meet)


def _at_once(world: World, *works: Work) -> None:
    """Do both at once, each in a transaction of its own that is not tried again."""

    def do(work: Work) -> None:
        with world.database.transaction(Role.OPERATOR) as connection:
            work(connection)

    with _met(world.database.engine), ThreadPoolExecutor(2) as pool:
        list(pool.map(do, works))


def _require_all_tie(world: World, *tenants: Tenant) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        for tenant in tenants:
            require_ties(connection, tenant)


@pytest.mark.parametrize("name", ["void", "lapse", "renewal", "accrual"])
def test_no_operation_on_credit_deadlocks_with_a_sweep_of_holds(
    world: World, pair: tuple[Tenant, Tenant], name: str
) -> None:
    acme, _ = pair
    works: dict[str, Work] = {
        "void": partial(_void, tenant=acme),
        "lapse": partial(expire_grants, now=LATER),
        "renewal": partial(issue_recurring, now=LATER),
        "accrual": partial(_accrue, tenants=pair),
    }
    _at_once(world, works[name], partial(expire_holds, now=LATER))
    _require_all_tie(world, *pair)


@pytest.mark.parametrize("other", ["void", "lapse"])
def test_a_grant_is_voided_while_credit_of_others_is_voided_or_lapses(
    world: World, pair: tuple[Tenant, Tenant], other: str
) -> None:
    acme, beta = pair
    works: dict[str, Work] = {
        "void": partial(_void, tenant=acme),
        "lapse": partial(expire_grants, now=LATER),
    }
    _at_once(world, partial(_void, tenant=beta), works[other])
    _require_all_tie(world, *pair)


def test_credit_in_two_currencies_is_applied_during_a_sweep_of_holds(world: World) -> None:
    world.plan(PLAN.replace("slug: standard", "slug: europe").replace("USD", "EUR"))
    acme = world.tenant("acme")
    with world.database.transaction(Role.OPERATOR) as connection:
        [bound] = list_contracts(connection, tenant_id=acme.id)
        end_contract(connection, bound.id, valid_until=MONTH_END)
        bind_contract(connection, tenant="acme", plan="europe", valid_from=MONTH_END, now=world.now)
        # By their codes they would be the other way round.
        for code in ("USD", "EUR"):
            give(connection, acme, "9.00", key=code, now=world.now, currency=code)
            _hold(connection, acme, code, now=world.now)
    period = acme.billing_period(world.now)
    pay = partial(apply_credits, tenant=acme, period=period, settled_through=LATER, now=LATER)
    _at_once(world, pay, partial(expire_holds, now=LATER))
