"""What of the contracts in force reaches the proxy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from uuid import uuid4

import psycopg
import pytest

from billing.admission.amounts import PICO
from billing.admission.backend import Backend, ServedModel
from billing.admission.limit import Unit
from billing.admission.snapshot import Snapshot
from billing.admission.terms import OnLoss, Payment, Unpriced
from billing.errors import Conflict, InvalidInput
from billing.metering.token_class import TokenClass
from billing.operations.admission.take_snapshot import take_snapshot
from billing.operations.catalog.contracts import bind_contract
from billing.operations.holds.define_limit import (
    LimitTerms,
    define_limit,
    end_limit,
    list_limits,
)
from billing.operations.holds.holds import require_limit, take_hold
from billing.store.database import Role, query
from tests.world import MONTH_START, World, make_world

BACKEND = Backend(name="b", base_url="http://127.0.0.1:1")
MODELS = [
    ServedModel(id=0, name=name, backends=(BACKEND,), classes=frozenset(TokenClass))
    for name in ("tiny", "large")
]

PREPAID = """
slug: prepaid
name: Prepaid
currency: USD
policies: {payment: prepaid, max_exposure: "2.50", unpriced: refuse}
price_list:
  models:
    large: {input: "3", output: "9"}
"""
OPEN = """
slug: open
name: Open
currency: USD
policies: {unpriced: free, max_exposure: "7", on_database_loss: open}
charges:
  - {type: per_unit, key: requests, description: Requests, meter: requests, price: "0.01"}
"""


@pytest.fixture
def world(database, now) -> World:
    world = make_world(database, now)
    world.plan(PREPAID)
    world.plan(OPEN)
    return world


def snapshot(world: World, now) -> Snapshot:
    with world.database.transaction(Role.OPERATOR) as connection:
        return take_snapshot(connection, models=MODELS, version=7, now=now)


def bind(world: World, tenant: str, plan: str) -> None:
    with world.database.transaction(Role.OPERATOR) as connection:
        bind_contract(connection, tenant=tenant, plan=plan, valid_from=MONTH_START, now=world.now)


def test_rates_classes_and_currency_are_the_plans(world, now):
    acme = world.tenant("acme")
    terms = snapshot(world, now).terms[acme.id]
    assert terms.currency == "USD"
    assert terms.rates["tiny"].input == 200_000_000_000  # 0.20 for a million
    assert TokenClass.INPUT in terms.priced["tiny"]
    assert "large" not in terms.rates
    assert terms.policy.payment is Payment.POSTPAID
    assert terms.prepaid is None


def test_the_strictest_contract_decides(world, now):
    acme = world.tenant("acme")
    bind(world, "acme", "open")
    both = snapshot(world, now).terms[acme.id]
    assert (both.policy.unpriced, both.policy.on_database_loss) == (Unpriced.REFUSE, OnLoss.OPEN)
    assert both.policy.max_exposure == 7 * PICO

    bind(world, "acme", "prepaid")
    three = snapshot(world, now).terms[acme.id]
    assert (three.policy.payment, three.policy.on_database_loss) == (
        Payment.PREPAID,
        OnLoss.CLOSED,
    )
    assert three.policy.max_exposure == 5 * PICO // 2
    assert three.rates["large"].request == 10**16
    assert three.rates["large"].output == 9 * 10**12


def test_a_prepaid_tenant_without_credit_is_limited_by_none(world, now):
    acme = world.tenant("acme", plan="prepaid")
    first = snapshot(world, now).terms[acme.id].prepaid
    assert first is not None
    assert snapshot(world, now).terms[acme.id].prepaid == first
    with world.database.transaction(Role.OPERATOR) as connection:
        rows = query(connection, "SELECT id, tenant_id, name, currency FROM spend_limit")
        assert [tuple(row) for row in rows] == [(first, acme.id, "credit", "USD")]


def test_a_model_without_a_price_is_free_only_where_the_plan_says_so(world, now):
    free, refused = world.tenant("free", plan="open"), world.tenant("refused", plan="prepaid")
    terms = snapshot(world, now).terms
    assert terms[free.id].rates["tiny"].output == 0
    assert terms[free.id].priced == {}
    assert "tiny" not in terms[refused.id].rates


def test_tenants_on_the_same_plans_share_one_reading(world, now):
    first, second = world.tenant("first"), world.tenant("second")
    bind(world, "second", "open")
    third, fourth = world.tenant("third", plan="open"), world.tenant("fourth")
    bind(world, "third", "standard")
    terms = snapshot(world, now).terms
    assert terms[first.id].rates is terms[fourth.id].rates
    assert terms[second.id].rates is terms[third.id].rates
    assert terms[first.id].rates is not terms[second.id].rates


def test_price_versions_are_those_of_the_contracts_in_force(world, now):
    acme, other = world.tenant("acme"), world.tenant("other")
    before = snapshot(world, now).terms
    assert before[acme.id].price_version_id != before[other.id].price_version_id
    bind(world, "acme", "open")
    after = snapshot(world, now).terms
    assert after[acme.id].price_version_id != before[acme.id].price_version_id
    assert after[other.id].price_version_id == before[other.id].price_version_id
    assert snapshot(world, now).terms == after


def test_limits_reach_the_proxy_while_they_count(world, now):
    acme = world.tenant("acme")
    with world.database.transaction(Role.OPERATOR) as connection:
        for name, unit in (("tpm", Unit.TOKENS), ("flights", Unit.SLOTS)):
            terms = LimitTerms(unit=unit, capacity=Decimal(9))
            define_limit(connection, tenant=acme, name=name, terms=terms, now=now)
    assert [limit.name for limit in snapshot(world, now).terms[acme.id].limits] == [
        "tpm",
        "flights",
    ]
    with world.database.transaction(Role.OPERATOR) as connection:
        end_limit(connection, tenant=acme, name="tpm", now=now)
    assert [limit.name for limit in snapshot(world, now).terms[acme.id].limits] == ["flights"]


def test_a_limit_counts_in_the_currency_in_which_the_tenant_is_charged(world, now):
    acme, bolt = world.tenant("acme"), world.tenant("bolt", plan=None)
    world.plan(OPEN.replace("slug: open", "slug: euro").replace("USD", "EUR"))
    euros = LimitTerms(unit=Unit.MONEY, currency="EUR", capacity=Decimal(10))
    unknown = replace(euros, currency="ZZZ")
    for tenant, terms in ((acme, euros), (bolt, unknown)):
        with (
            pytest.raises(InvalidInput) as refused,
            world.database.transaction(Role.OPERATOR) as connection,
        ):
            define_limit(connection, tenant=tenant, name="one", terms=terms, now=now)
        assert refused.value.field == "currency"
    with world.database.transaction(Role.OPERATOR) as connection:
        define_limit(connection, tenant=bolt, name="one", terms=euros, now=now)
    with pytest.raises(Conflict) as clash:
        bind(world, "bolt", "standard")
    assert clash.value.field == "currency"
    with world.database.transaction(Role.OPERATOR) as connection:
        end_limit(connection, tenant=bolt, name="one", now=now)
    bind(world, "bolt", "standard")


def test_changes_of_limits_are_announced_and_their_use_is_not(world, now):
    acme = world.tenant("acme")
    terms = LimitTerms(unit=Unit.MONEY, currency="USD", capacity=Decimal(10))
    with psycopg.connect(world.database.conninfo(), autocommit=True) as listener:
        listener.execute("LISTEN steelyard_control")

        def announced() -> int:
            return len(list(listener.notifies(timeout=0.2)))

        for change in (
            partial(define_limit, tenant=acme, name="one", terms=terms, now=now),
            partial(
                define_limit, tenant=acme, name="one", terms=replace(terms, hard=False), now=now
            ),
            partial(end_limit, tenant=acme, name="one", now=now),
        ):
            with world.database.transaction(Role.OPERATOR) as connection:
                change(connection)
            assert announced() >= 1
        with world.database.transaction(Role.OPERATOR) as connection:
            define_limit(connection, tenant=acme, name="one", terms=terms, now=now)
            limit = require_limit(connection, tenant=acme, name="one", currency_code="USD", now=now)
        assert announced() >= 1
        with world.database.transaction(Role.OPERATOR) as connection:
            take_hold(
                connection,
                hold_id=uuid4(),
                limit=limit,
                amount=Decimal(3),
                expires_at=now + timedelta(minutes=5),
                now=now,
            )
        assert announced() == 0
    with world.database.transaction(Role.OPERATOR) as connection:
        (shown,) = list_limits(connection, tenant=acme, now=now)
    assert (shown.row.leased, shown.row.left) == (3, 7)


def test_a_tenant_without_a_contract_in_force_is_absent(world, now):
    acme = world.tenant("acme", plan=None)
    assert acme.id not in snapshot(world, now).terms
    later = world.tenant("later", plan=None)
    with world.database.transaction(Role.OPERATOR) as connection:
        start = MONTH_START + timedelta(days=60)
        bind_contract(connection, tenant="later", plan="standard", valid_from=start, now=world.now)
    assert later.id not in snapshot(world, now).terms
    assert later.id in snapshot(world, start).terms
